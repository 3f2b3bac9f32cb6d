"""Rank maps are whole for every ratio, and the plugin's configuration is what it takes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disaggc.backends.emitters import Settings, emit
from disaggc.backends.emitters.rank_map import Rank, RankMap, Side, check_rank_map, pairing, rank_map
from disaggc.errors import JobError, PlanError
from disaggc.plans import Parallelism, open_plan

from .hostile import NAMES, RECORD, bash, calls, needs_bash, stub
from .shapes import rewritten
from .stacks import accepted
from .test_emitters_launching import SHELLCHECK

Plans = Callable[[str], Path]


def side(pool: str, tp: int = 1, dp: int = 1) -> Side:
    return Side(pool, Parallelism(tp=tp, dp=dp, ep=tp * dp))


def written(folder: Path, output: Path, **settings: Any) -> Path:
    emit(folder, "afd-plugin", output, Settings(**{"checkpoint": "org/model", **settings}), force=True)
    return output


def loaded(path: Path) -> RankMap:
    data = json.loads(path.read_text(encoding="utf-8"))
    ranks = tuple(
        Rank(**{**rank, "peers": tuple(rank["peers"]), "micro_batches": tuple(rank["micro_batches"])})
        for rank in data.pop("ranks")
    )
    return RankMap(ranks=ranks, **data)


# Rank maps --------------------------------------------------------------------------------------


@given(st.integers(1, 96), st.integers(1, 96), st.integers(1, 4))
def test_every_ratio_has_a_whole_map(attention: int, ffn: int, micro_batches: int) -> None:
    found = rank_map(side("a", dp=attention), side("f", tp=ffn), micro_batches)
    peers = {(rank.role, rank.rank): rank.peers for rank in found.ranks}
    assert len(peers) == attention + ffn
    assert all(peers.values())
    for (role, rank), others in peers.items():
        back = "ffn" if role == "attention" else "attention"
        assert all(rank in peers[back, other] for other in others)


@given(st.integers(1, 12), st.integers(1, 12))
def test_pairs_are_as_few_and_as_even_as_can_be(attention: int, ffn: int) -> None:
    pairs = pairing(attention, ffn)
    assert len(pairs) == max(attention, ffn)
    for k in (0, 1):
        counts = [sum(pair[k] == rank for pair in pairs) for rank in {pair[k] for pair in pairs}]
        assert max(counts) - min(counts) <= 1


def test_the_plugins_worked_example_comes_out() -> None:
    """4A2F in docs/gpu/NCCL_P2P_CONNECTOR_USER_GUIDE.md of vllm-project/afd-plugin (2e4378f)."""
    found = rank_map(side("a", dp=4), side("f", dp=2), 2)
    world = {f"{rank.role[0].upper()}{rank.rank}": rank.world for rank in found.ranks}
    assert world == {"F0": 0, "F1": 1, "A0": 2, "A1": 3, "A2": 4, "A3": 5}
    subgroups = {rank.rank: rank.peers for rank in found.ranks if rank.role == "ffn"}
    assert subgroups == {0: (0, 1), 1: (2, 3)}


@given(st.integers(1, 16), st.integers(1, 8))
def test_where_the_ratio_divides_peers_are_the_plugins(ffn: int, ratio: int) -> None:
    assert pairing(ffn * ratio, ffn) == [(a, a // ratio) for a in range(ffn * ratio)]


def test_the_plugin_itself_makes_the_same_map(plans: Plans, tmp_path: Path) -> None:
    topology = pytest.importorskip("afd_plugin.distributed.topology")
    config = pytest.importorskip("afd_plugin.config")
    output = written(plans("experts"), tmp_path / "out")
    for rank in loaded(output / "rank_map.json").ranks:
        given_config = json.loads((output / f"{rank.role}.json").read_text())["afd"]
        theirs = topology.build_rank_mapping(config.afd_config_from_mapping(given_config), rank.rank)
        assert theirs.world_rank == rank.world
        attention = rank.peers if rank.role == "ffn" else (rank.rank,)
        assert {theirs.ffn_size + a for a in attention} <= set(theirs.subgroup_ranks)


def test_ranks_count_tensor_parallel_first() -> None:
    found = rank_map(side("a", tp=2, dp=3), side("f", tp=3), 1)
    places = [(r.rank, r.dp_rank, r.tp_rank) for r in found.ranks if r.role == "attention"]
    assert places == [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1), (4, 2, 0), (5, 2, 1)]


def _changed(found: RankMap, at: int, **changes: Any) -> RankMap:
    ranks = tuple(replace(rank, **changes) if rank.world == at else rank for rank in found.ranks)
    return replace(found, ranks=ranks)


BREAKS: dict[str, tuple[Callable[[RankMap], RankMap], str]] = {
    "a rank short": (lambda m: replace(m, ranks=m.ranks[:-1]), "has 4 attention and 2 FFN ranks of 6"),
    "a wrong count": (lambda m: replace(m, ffn_ranks=3), "there are 5 and 3"),
    "a rank twice": (lambda m: _changed(m, 3, rank=0), "attention rank 0 twice"),
    "a world rank twice": (lambda m: _changed(m, 3, world=2), "world rank 2 twice"),
    "a world rank beyond": (lambda m: _changed(m, 6, world=9), "lacks world rank 6"),
    "a shared device": (lambda m: _changed(m, 3, device=0), "share device 0 of 'a'"),
    "no peer": (lambda m: _changed(m, 3, peers=()), "Some attention rank has 1 peers|rank 1 has no ffn peer"),
    "a peer that is none": (lambda m: _changed(m, 3, peers=(7,)), "peer 7, which is no rank"),
    "a peer that is another's": (lambda m: _changed(m, 2, peers=(1,)), "peer 1, which does not have it"),
    "unlike loads": (lambda m: _changed(m, 0, peers=(0, 1, 2, 3, 4)), "has 5 peers, another 2"),
    "a micro-batch left out": (lambda m: _changed(m, 4, micro_batches=(0,)), r"micro-batches \[0\] only"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_map_is_refused(name: str) -> None:
    found = rank_map(side("a", dp=5), side("f", tp=2), 2)
    check_rank_map(found)
    broken, message = BREAKS[name]
    with pytest.raises(PlanError, match=message):
        check_rank_map(broken(found))


# The plugin's files -----------------------------------------------------------------------------


def test_both_roles_agree_on_the_topology(plans: Plans, tmp_path: Path) -> None:
    output = written(plans("experts"), tmp_path / "out")
    attention, ffn = (
        json.loads((output / f"{role}.json").read_text())["afd"] for role in ("attention", "ffn")
    )
    assert (attention.pop("role"), ffn.pop("role")) == ("attention", "ffn")
    assert attention == ffn
    pools = {pool.name: pool.devices for pool in open_plan(plans("experts")).pools}
    assert (ffn["num_attention_ranks"], ffn["num_ffn_ranks"]) == (pools["h20-x8"], pools["l40s-x8"])
    assert ffn["compute_gate_on_attention"] is False  # the plan has the router on the experts' pool


def test_the_map_on_disk_is_whole_and_names_the_pools(plans: Plans, tmp_path: Path) -> None:
    found = loaded(written(plans("experts"), tmp_path / "out") / "rank_map.json")
    check_rank_map(found)
    assert {(rank.role, rank.pool) for rank in found.ranks} == {("ffn", "l40s-x8"), ("attention", "h20-x8")}


@needs_bash
@pytest.mark.parametrize("role", ["attention", "ffn"])
def test_a_role_starts_vllm_with_its_configuration(plans: Plans, tmp_path: Path, role: str) -> None:
    output = written(plans("experts"), tmp_path / "out")
    stub(output, "vllm", RECORD)
    bash(output / f"{role}.sh", output, {"RECORD": str(output / "record"), "AFD_HOST": "10.1.1.1"})
    (own,) = calls(output / "record")
    given_config = json.loads(own[own.index("--additional-config") + 1])["afd"]
    assert (given_config["role"], given_config["host"]) == (role, "10.1.1.1")
    assert {each for each in own if each.startswith("--")} <= accepted("vllm-0.26.0")


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck here")
def test_shellcheck_finds_nothing(plans: Plans, tmp_path: Path) -> None:
    output = written(plans("experts"), tmp_path / "out", checkpoint="a'b\n$(c)")
    command = [str(SHELLCHECK), "--shell=bash", "--norc", *map(str, output.glob("*.sh"))]
    told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert told.stdout == ""


@needs_bash
def test_no_checkpoint_breaks_out_of_a_script(plans: Plans, tmp_path: Path) -> None:
    for text in NAMES[2:6]:
        output = written(plans("experts"), tmp_path / "out", checkpoint=text)
        stub(output, "vllm", RECORD)
        bash(output / "ffn.sh", output, {"RECORD": str(output / "record")})
        (own,) = calls(output / "record")
        assert own[:2] == ["serve", text]
        assert not (output / "owned").exists()


def test_two_micro_batches_are_the_plugins_dual_batch(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("experts"))
    twice = rewritten(plans("experts"), tmp_path / "plan", schedule=replace(plan.schedule, micro_batches=2))
    assert "--enable-dbo" in (written(twice, tmp_path / "out") / "ffn.sh").read_text()
    once = (written(plans("experts"), tmp_path / "other") / "ffn.sh").read_text()
    assert "--enable-dbo" not in once


def test_what_differs_from_the_plan_is_told(plans: Plans, tmp_path: Path) -> None:
    settings = Settings(checkpoint="org/model")
    notes = " ".join(emit(plans("experts"), "afd-plugin", tmp_path / "out", settings).notes)
    assert "norm on 'l40s-x8', which the plugin runs on attention ranks" in notes
    assert "DeepSeek V2, V3 and V3.2 on vLLM 0.26.0" in notes


def _with_a_third_pool(folder: Path, target: Path, name: str, system: str) -> Path:
    """The plan with prefill on a pool of its own, whose name is not its system's."""
    plan = open_plan(folder)
    like = next(pool for pool in plan.pools if pool.name == plan.prefill.stages[0].pool)
    third = replace(like, name=name, system=system)
    stages = tuple(replace(stage, pool=name) for stage in plan.prefill.stages)
    prefill = replace(plan.prefill, stages=stages)
    return rewritten(folder, target, pools=(third, *plan.pools), prefill=prefill)


@needs_bash
def test_prefill_on_a_third_pool_hands_caches_to_attention_ranks(plans: Plans, tmp_path: Path) -> None:
    folder = _with_a_third_pool(plans("experts"), tmp_path / "plan", "h20-x8:prefill", "h20-x8")
    output = written(folder, tmp_path / "out")
    found = {}
    for role in ("prefill", "attention", "ffn"):
        (output / "record").unlink(missing_ok=True)
        stub(output, "vllm", RECORD)
        bash(output / f"{role}.sh", output, {"RECORD": str(output / "record")})
        (found[role],) = calls(output / "record")
    roles = {
        role: json.loads(own[own.index("--kv-transfer-config") + 1])["kv_role"]
        for role, own in found.items()
        if "--kv-transfer-config" in own
    }
    assert roles == {"prefill": "kv_producer", "attention": "kv_consumer"}
    assert "--additional-config" not in found["prefill"]
    assert (output / "router.sh").is_file()


def test_prefill_on_other_than_cuda_is_refused(plans: Plans, tmp_path: Path) -> None:
    folder = _with_a_third_pool(plans("experts"), tmp_path / "plan", "third", "mi300x-x8")
    with pytest.raises(PlanError, match="it prefills on 'third', no CUDA device"):
        written(folder, tmp_path / "out")


# Refusals ---------------------------------------------------------------------------------------


def _with_attention_ranks(folder: Path, target: Path, dp: int) -> Path:
    plan = open_plan(folder)
    pools = tuple(
        replace(pool, devices=dp, parallelism=Parallelism(dp=dp, ep=dp)) if pool.name == "h20-x8" else pool
        for pool in plan.pools
    )
    return rewritten(folder, target, pools=pools)


@pytest.mark.parametrize("ranks", [12, 5])
def test_a_ratio_that_does_not_divide_is_for_a_runtime_of_ones_own(
    plans: Plans, tmp_path: Path, ranks: int
) -> None:
    folder = _with_attention_ranks(plans("experts"), tmp_path / "plan", ranks)
    with pytest.raises(PlanError, match=f"'h20-x8' has {ranks}, 'l40s-x8' 8.*--connector own"):
        written(folder, tmp_path / "out")
    output = written(folder, tmp_path / "out", connector="own")
    assert sorted(path.name for path in output.iterdir()) == ["emitted.json", "rank_map.json"]
    found = loaded(output / "rank_map.json")
    check_rank_map(found)
    assert found.attention_ranks == ranks


def test_three_micro_batches_are_refused_with_the_cure(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("experts"))
    folder = rewritten(plans("experts"), tmp_path / "plan", schedule=replace(plan.schedule, micro_batches=3))
    with pytest.raises(PlanError, match=r"the plan has 3. Compile with \[search\] micro_batches = \[1, 2\]"):
        written(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide", "attention and experts are not on two pools. Use --backend vllm, sglang or dynamo"),
        ("tiny", "of NVIDIA .Groq. lp30, no CUDA device. Use --backend dynamo for LPX racks"),
    ],
)
def test_other_plans_are_refused_with_who_takes_them(
    plans: Plans, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        written(plans(name), tmp_path / "out")


def test_a_plan_with_attention_on_both_pools_is_not_sent_to_the_backend_that_refuses_it(
    plans: Plans, tmp_path: Path
) -> None:
    plan = open_plan(plans("experts"))
    (experts,) = {s.pool for s in plan.decode.stages if "experts" in s.roles}
    first = next(s for s in plan.decode.stages if "core_attention" in s.roles)
    stages = tuple(replace(s, pool=experts) if s is first else s for s in plan.decode.stages)
    folder = rewritten(plans("experts"), tmp_path / "plan", decode=replace(plan.decode, stages=stages))
    with pytest.raises(PlanError, match=r"not on two pools\. No serving stack .* writes the cut itself"):
        written(folder, tmp_path / "out")


def test_an_unknown_connector_is_refused(plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="--connector 'tcp' is none of P2pNcclAFDConnector, own"):
        written(plans("experts"), tmp_path / "out", connector="tcp")
