"""A fleet's tiers as pools of Dynamo: each request gets a pool that is fast enough, by Dynamo's own rules."""

from __future__ import annotations

import importlib
import json
import random
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from disaggc.backends.emitters import Settings, emit
from disaggc.backends.emitters.dynamo_manifest import check_deployment
from disaggc.backends.emitters.pool_grid import MOST_BUCKETS, Axis, axis, crowded, row, square
from disaggc.plans import FleetPlan, GroupPlan, Parallelism, ReplicaPlan, TierPlan, dump_plan, open_fleet

from .hostile import NAMES
from .stacks import accepted
from .test_emitters_dynamo import arguments, components, main_container
from .test_emitters_fleet import fleet, rewritten

__all__ = ["fleet"]  # a fixture

Plans = Callable[[str], Path]
TIMES = {"free": (5_000, 20), "medium": (3_000, 100), "high": (2_000, 200), "premium": (2_000, 400)}
"""Tier to time to first token and tokens a second for each user."""


# The grids ---------------------------------------------------------------------------------------


def bucket(along: Axis, target_ms: float) -> int:
    """As the global router's documentation gives it."""
    step = (along.high_ms - along.low_ms) / along.buckets
    return max(0, min(int((target_ms - along.low_ms) / step), along.buckets - 1))


@pytest.mark.parametrize("seed", range(20))
def test_each_target_has_a_bucket_of_its_own_and_its_own_pool(seed: int) -> None:
    source = random.Random(seed)
    targets = sorted({1000 / source.choice([7, 20, 30, 50, 100, 150, 200, 400, 1000]) for _ in range(6)})
    along = axis(targets)
    assert len({bucket(along, target) for target in targets}) == len(targets)
    pools = row(along, targets)
    assert [pools[bucket(along, target)] for target in targets] == list(range(len(targets)))


@pytest.mark.parametrize("seed", range(20))
def test_what_asks_for_times_in_between_gets_the_loosest_pool_that_is_fast_enough(seed: int) -> None:
    source = random.Random(seed)
    targets = sorted(source.sample(range(1, 60), 4))
    along = axis(targets)
    pools, step = row(along, targets), (along.high_ms - along.low_ms) / along.buckets
    for _ in range(200):
        asked = source.uniform(0.5, 70)
        got = targets[pools[bucket(along, asked)]]
        assert got <= asked + step / 2 or got == targets[0]
        assert not any(got < other <= asked - step / 2 for other in targets)


def test_a_square_looks_at_both_times() -> None:
    promised = [(2_000.0, 2.5), (2_000.0, 5.0), (500.0, 20.0), (5_000.0, 20.0)]
    first, between = axis([f for f, _ in promised]), axis([b for _, b in promised])
    found = square(first, between, promised)
    for k, (ttft, itl) in enumerate(promised):
        assert found[bucket(first, ttft)][bucket(between, itl)] == k
    assert found[bucket(first, 500)][bucket(between, 2.5)] == 0  # nobody is that fast: the fastest


def test_targets_too_close_for_the_router_are_told() -> None:
    assert crowded([1.0, 2.0, 10_000.0]).startswith("targets 1 ms apart in a range of 9999 ms are too close")
    assert crowded([3.0]) == crowded([1.0, 2.0, 500.0]) == ""
    assert axis([3.0]).buckets == 1
    assert axis([1.0, 2.0, 500.0]).buckets <= MOST_BUCKETS


# What is written ---------------------------------------------------------------------------------


def _tier(name: str) -> TierPlan:
    ttft, speed = TIMES[name]
    return TierPlan(name, 4096, speed, ttft, 1.0, None, 1.0, 5.0, 500.0, 9.0, 1.0, None, None, "")


def _replica(
    name: str,
    form: str,
    tier: str,
    count: int,
    rate: float,
    split: Parallelism | None = None,
    plan: bool = True,
) -> ReplicaPlan:
    system = "l40s-x8" if form == "prefill" else "h20-x8"
    group = GroupPlan(form, system, 8, split or Parallelism(tp=1, dp=8, ep=8))
    path = f"deployments/{name}" if plan and form != "prefill" else ""
    return ReplicaPlan(name, tier, form, "P/D", "h20-x8", count, (group,), 1.0, rate, 0.9, plan=path)


@pytest.fixture
def pooled(fleet: Path, plans: Plans, tmp_path: Path) -> Path:
    """Three tiers in phases, two of them with one time to first token; one of these whole, too."""
    replicas = (
        _replica("medium-1", "decode", "medium", 2, 8.0),
        _replica("medium-prefill-1", "prefill", "medium", 3, 8.0),
        _replica("high-1", "decode", "high", 1, 3.0),
        _replica("high-2", "decode", "high", 4, 3.0),
        _replica("high-prefill-1", "prefill", "high", 1, 6.0, Parallelism(tp=2, dp=4, ep=8)),
        _replica("high-3", "whole", "high", 1, 2.0),
        _replica("premium-1", "decode", "premium", 1, 1.0),
        _replica("premium-prefill-1", "prefill", "premium", 2, 1.0),
        _replica("free-1", "whole", "free", 5, 9.0),
    )
    shapes = {r.name: plans("phases" if r.form == "decode" else "colocated") for r in replicas if r.plan}
    folder = rewritten(fleet, tmp_path / "fleet", shapes, replicas)
    plan = replace(open_fleet(folder), tiers=tuple(map(_tier, TIMES)))
    (folder / "plan.json").write_bytes(dump_plan(plan))
    return folder


def written(folder: Path, output: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """Every document of every manifest of pools/ by its name; without the model, so without profiles."""
    known = {"checkpoint": "a/b", "name": "chat", "model": output.parent, **settings}
    emit(folder, "dynamo", output, Settings(**known))
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((output / "pools").glob("*/*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            name = document["metadata"]["name"]
            key = name if document["kind"] == "DynamoGraphDeployment" else f"ConfigMap {name}"
            found[key] = document
    return found


def config(found: dict[str, dict[str, Any]], kind: str) -> dict[str, Any]:
    text = found[f"ConfigMap chat-{kind}-router"]["data"]["global_router_config.json"]
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_tiers_of_one_time_share_a_pool_and_each_kind_of_router_has_a_front_end(
    pooled: Path, tmp_path: Path
) -> None:
    found = written(pooled, tmp_path / "out")
    graphs = {name for name, document in found.items() if document["kind"] == "DynamoGraphDeployment"}
    assert graphs == {
        "chat-phases",
        "chat-medium-prefill",
        "chat-high-premium-prefill",
        "chat-medium-decode",
        "chat-high-decode",
        "chat-premium-decode",
        "chat-whole",
        "chat-high-aggregated",
        "chat-free-aggregated",
    }
    for name in ("chat-phases", "chat-whole"):
        assert set(components(found[name])) == {"Frontend", "GlobalRouter", "GlobalPlanner"}


def test_a_pool_has_every_kind_of_replica_as_often_as_the_fleet_runs_it(pooled: Path, tmp_path: Path) -> None:
    found = written(pooled, tmp_path / "out")
    decode = components(found["chat-high-decode"])
    assert [decode[name]["replicas"] for name in ("decode-1", "decode-2")] == [8, 32]  # dp 8: engines apart
    prefill = components(found["chat-high-premium-prefill"])
    assert [prefill[name]["replicas"] for name in ("prefill-1", "prefill-2")] == [4, 16]
    tensor = [arguments(prefill[name])[5] for name in ("prefill-1", "prefill-2")]
    assert tensor == ["2", "1"]  # of another shape than the plan of its decode has
    assert {c["type"] for c in decode.values() if "type" in c} == {"decode"}


def test_workers_register_where_the_local_router_looks_for_them(pooled: Path, tmp_path: Path) -> None:
    found = written(pooled, tmp_path / "out", namespace="prod")
    for name, component in (
        ("medium-prefill", "prefill"),
        ("high-decode", "backend"),
        ("free-aggregated", "backend"),
    ):
        own = arguments(components(found[f"chat-{name}"])["LocalRouter"])
        assert own[:2] == ["--endpoint", f"prod-chat-{name}.{component}.generate"]
        assert found[f"chat-{name}"]["metadata"]["namespace"] == "prod"
    names = config(found, "phases")["decode_pool_dynamo_namespaces"]
    assert names == ["prod-chat-premium-decode", "prod-chat-high-decode", "prod-chat-medium-decode"]


def test_the_planner_may_use_the_gpus_of_the_plan_and_no_more(pooled: Path, tmp_path: Path) -> None:
    found = written(pooled, tmp_path / "out")
    own = arguments(components(found["chat-phases"])["GlobalPlanner"])
    gpus = 0
    for name in [n for n in found if n.endswith(("-prefill", "-decode"))]:
        for component in components(found[name]).values():
            limits = main_container(component).get("resources", {}).get("limits", {})
            gpus += int(limits.get("nvidia.com/gpu", 0)) * component["replicas"]
    assert own[own.index("--max-total-gpus") + 1] == str(gpus)
    managed = own[own.index("--managed-namespaces") + 1 :]
    assert managed == [f"default-chat-{n}" for n in (
        "high-premium-prefill", "medium-prefill", "premium-decode", "high-decode", "medium-decode"
    )]  # fmt: skip


def test_requests_that_name_no_times_go_to_the_loosest_tier(pooled: Path, tmp_path: Path) -> None:
    found = written(pooled, tmp_path / "out")
    own = arguments(components(found["chat-whole"])["GlobalRouter"])
    asked = [own[own.index(f"--default-{what}-target-ms") + 1] for what in ("ttft", "itl")]
    assert asked == ["5000", "50"]


def test_a_tier_of_both_kinds_says_how_its_requests_are_divided(pooled: Path, tmp_path: Path) -> None:
    done = emit(pooled, "dynamo", tmp_path / "out", Settings(checkpoint="a/b", name="chat", model=tmp_path))
    (note,) = [n for n in done.notes if n.startswith("Tier 'high'")]
    assert "send 25% of its requests to the front end of pools/whole, the rest to that of" in note
    assert "kubectl apply -f pools/whole and kubectl apply -f pools/phases" in done.start
    told = (tmp_path / "out" / "pools" / "README.md").read_text(encoding="utf-8")
    assert "| `high` | `chat-phases` | `2000` | `5` | `chat-high-premium-prefill, chat-high-decode` |" in told


def test_what_divides_a_phase_stays_by_itself_with_its_share_of_prefill(
    fleet: Path, plans: Plans, tmp_path: Path
) -> None:
    replicas = (
        _replica("high-1", "decode", "high", 1, 3.0),
        _replica("high-2", "decode", "high", 1, 1.0),
        _replica("high-prefill-1", "prefill", "high", 4, 4.0),
        _replica("free-1", "decode", "free", 1, 9.0),
        _replica("free-prefill-1", "prefill", "free", 1, 9.0),
    )
    shapes = {"high-1": plans("phases"), "high-2": plans("tiny"), "free-1": plans("phases")}
    folder = rewritten(fleet, tmp_path / "fleet", shapes, replicas)
    plan: FleetPlan = replace(open_fleet(folder), tiers=tuple(map(_tier, TIMES)))
    (folder / "plan.json").write_bytes(dump_plan(plan))
    lpx: dict[str, Any] = {"build_id": "b", "lpu_image": "l:1", "conductor_image": "g:1", "node_devices": 72}
    done = emit(
        folder, "dynamo", tmp_path / "out", Settings(checkpoint="a/b", name="chat", model=tmp_path, **lpx)
    )
    assert any(n.startswith("high-2 is in no pool: it divides the layers of a phase") for n in done.notes)
    text = (tmp_path / "out/pools/phases/chat-high-prefill.yaml").read_text(encoding="utf-8")
    pool = components(list(yaml.safe_load_all(text))[-1])
    assert pool["prefill"]["replicas"] == 3 * 8  # three quarters of four, dp 8


def test_one_pool_alone_needs_no_router(fleet: Path, plans: Plans, tmp_path: Path) -> None:
    replicas = (_replica("free-1", "whole", "free", 5, 9.0),)
    folder = rewritten(fleet, tmp_path / "fleet", {"free-1": plans("colocated")}, replicas)
    emit(folder, "dynamo", tmp_path / "out", Settings(checkpoint="a/b"))
    assert not (tmp_path / "out" / "pools").exists()


@pytest.mark.parametrize("text", NAMES[::4])
def test_no_name_breaks_out_of_a_pools_manifests(pooled: Path, tmp_path: Path, text: str) -> None:
    found = written(pooled, tmp_path / "out", checkpoint=text, name=text, image=text)
    graphs = [d for d in found.values() if d["kind"] == "DynamoGraphDeployment"]
    assert len(graphs) == 9
    for graph in graphs:
        check_deployment(graph)
        assert {main_container(c)["image"] for c in graph["spec"]["components"]} == {text}
    routers = [c for g in graphs for c in g["spec"]["components"] if c["name"] == "GlobalRouter"]
    assert {arguments(r)[3] for r in routers} == {text.replace("$", "$$")}


def test_every_argument_is_one_that_the_release_takes(pooled: Path, tmp_path: Path) -> None:
    known = accepted("ai_dynamo-1.6.1") | accepted("vllm-0.31.0")
    for document in written(pooled, tmp_path / "out", model=None).values():
        for component in document.get("spec", {}).get("components", []):
            used = {a for a in main_container(component).get("args", []) if a.startswith("--")}
            assert used <= known


# Dynamo's own code -------------------------------------------------------------------------------


@pytest.fixture
def dynamo(dynamo_wheel: zipfile.ZipFile, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The wheel's packages importable from it, none of their own imports at the root run."""
    kept = {name for name in sys.modules if name == "dynamo" or name.startswith("dynamo.")}
    assert not kept
    for package in ("dynamo", "dynamo.planner", "dynamo.global_router", "dynamo.global_planner"):
        module = types.ModuleType(package)
        module.__path__ = [f"{dynamo_wheel.filename}/{package.replace('.', '/')}"]
        monkeypatch.setitem(sys.modules, package, module)
    yield
    for name in [name for name in sys.modules if name.startswith("dynamo.")]:
        del sys.modules[name]


@pytest.mark.usefixtures("dynamo")
def test_dynamos_global_router_sends_each_tier_to_its_own_pool(pooled: Path, tmp_path: Path) -> None:
    selection = importlib.import_module("dynamo.global_router.pool_selection")
    found = written(pooled, tmp_path / "out")
    for kind in ("phases", "whole"):
        (tmp_path / f"{kind}.json").write_text(json.dumps(config(found, kind)), encoding="utf-8")
    phases, whole = (selection.load_config(tmp_path / f"{kind}.json") for kind in ("phases", "whole"))
    for tier in ("medium", "high", "premium"):
        ttft, itl = TIMES[tier][0], 1000 / TIMES[tier][1]
        prefill = phases.prefill_pool_selection_strategy.select_pool(isl=3000, ttft_target_ms=ttft)
        decode = phases.decode_pool_selection_strategy.select_pool(context_length=9, itl_target_ms=itl)
        assert tier in phases.prefill_pool_dynamo_namespaces[prefill]
        assert tier in phases.decode_pool_dynamo_namespaces[decode]
    for tier in ("free", "high"):
        ttft, itl = TIMES[tier][0], 1000 / TIMES[tier][1]
        pool = whole.agg_pool_selection_strategy.select_pool(ttft_target_ms=ttft, itl_target_ms=itl)
        assert tier in whole.agg_pool_dynamo_namespaces[pool]


@pytest.mark.usefixtures("dynamo")
def test_dynamos_planners_read_their_configurations(pooled: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    model = importlib.import_module("dynamo.planner.config.planner_config").PlannerConfig
    parser = importlib.import_module("dynamo.global_planner.argparse_config").create_global_planner_parser()
    modes = {}
    for name, document in written(pooled, tmp_path / "out", model=None).items():
        if document["kind"] != "DynamoGraphDeployment":
            continue
        found = components(document)
        if "GlobalPlanner" in found:
            read = parser.parse_args(arguments(found["GlobalPlanner"]))
            assert read.max_total_gpus > 0 and read.managed_namespaces
        if "Planner" in found:
            text = arguments(found["Planner"])[1]
            read = model.model_validate(json.loads(text))
            assert set(json.loads(text)) <= set(model.model_fields)
            modes[name] = (read.mode, read.ttft_ms, read.itl_ms, read.optimization_target)
    assert modes["chat-medium-prefill"] == ("prefill", 3000, pytest.approx(50), "sla")
    assert modes["chat-premium-decode"][0::2] == ("decode", pytest.approx(2.5))
    assert modes["chat-free-aggregated"][:3] == ("agg", 5000, pytest.approx(50))
    assert "chat-high-decode" not in modes  # two kinds of replicas: nobody could say which to scale


def test_a_pools_profile_is_the_one_of_its_engine(pooled: Path, tmp_path: Path) -> None:
    found = written(pooled, tmp_path / "out", model=None)
    data = found["ConfigMap chat-medium-decode-profile"]["data"]
    assert set(data) == {"decode_raw_data.json"}
    points = json.loads(data["decode_raw_data.json"])
    assert len(points["x_kv_usage"]) == len(points["y_context_length"]) == len(points["z_itl"])
    assert isinstance(points["max_kv_tokens"], int)
    assert set(found["ConfigMap chat-free-aggregated-profile"]["data"]) == {
        "prefill_raw_data.json",
        "decode_raw_data.json",
    }


def test_kubernetes_takes_every_pod_of_the_pools(pooled: Path, tmp_path: Path) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    for document in written(pooled, tmp_path / "out", model=None).values():
        if document["kind"] == "ConfigMap":
            kubernetes.validate(document, "1.31.0", strict=True)
            continue
        for component in document["spec"]["components"]:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **component["podTemplate"]}
            kubernetes.validate(pod, "1.31.0", strict=True)


def test_tiers_whose_times_are_too_close_get_no_pools_and_are_told(pooled: Path, tmp_path: Path) -> None:
    plan = open_fleet(pooled)
    near = tuple(replace(t, ttft_ms=t.ttft_ms + (t.name == "high") * 0.001) for t in plan.tiers)
    (pooled / "plan.json").write_bytes(dump_plan(replace(plan, tiers=near)))
    done = emit(pooled, "dynamo", tmp_path / "out", Settings(checkpoint="a/b", model=tmp_path))
    assert any(n.startswith("There are no pools: targets 0.001 ms apart") for n in done.notes)
    assert not (tmp_path / "out" / "pools").exists() and not done.start.endswith("; ")


def test_prefill_on_other_than_nvidia_gpus_is_left_out_and_told(
    fleet: Path, plans: Plans, tmp_path: Path
) -> None:
    odd = GroupPlan("prefill", "mi300x-x8", 8, Parallelism(tp=8))
    replicas = (
        _replica("high-1", "decode", "high", 1, 3.0),
        _replica("high-prefill-1", "prefill", "high", 1, 3.0),
        replace(_replica("high-prefill-2", "prefill", "high", 1, 3.0), groups=(odd,)),
    )
    folder = rewritten(fleet, tmp_path / "fleet", {"high-1": plans("phases")}, replicas)
    plan = replace(open_fleet(folder), tiers=tuple(map(_tier, TIMES)))
    (folder / "plan.json").write_bytes(dump_plan(plan))
    done = emit(folder, "dynamo", tmp_path / "out", Settings(checkpoint="a/b", name="chat", model=tmp_path))
    assert any(
        "high-prefill-2 is in no pool: its pool 'l40s-x8' is of no NVIDIA GPUs" in n for n in done.notes
    )
