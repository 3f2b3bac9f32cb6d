"""A fleet is a folder for each kind of replica, as many of each as the fleet runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from disaggc.backends.emitters import MANIFEST, Settings, emit
from disaggc.backends.emitters.emitting import deployments
from disaggc.compiler import compile_fleet
from disaggc.errors import JobError, PlanError
from disaggc.plans import (
    FleetPlan,
    GroupPlan,
    Job,
    ModelSpec,
    Parallelism,
    ReplicaPlan,
    TierSpec,
    dump_plan,
    open_fleet,
)

from .conftest import LLAMA, MODELS
from .test_emitters_dynamo import components

Plans = Callable[[str], Path]


def _tier(name: str, rate: float, requests: float, price: float) -> TierSpec:
    return TierSpec(
        name=name,
        context_tokens=4096,
        ttft_ms=1e5,
        tokens_per_s_per_user=rate,
        price_usd_per_mtok=price,
        input_tokens=3000,
        output_tokens=500,
        requests_per_s=requests,
    )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiers on one box of GPUs, as the compiler writes them."""
    folder = tmp_path_factory.mktemp("fleet") / "fleet"
    tiers = (_tier("free", 20, 1000, 1.0), _tier("premium", 200, 100, 10.0))
    compile_fleet(Job(ModelSpec(LLAMA, "fp8", "fp8", "bf16"), {"h20-x8": 1}, tiers), MODELS, folder)
    return folder


def rewritten(fleet: Path, target: Path, plans: dict[str, Path], replicas: tuple[ReplicaPlan, ...]) -> Path:
    """A fleet of other replicas, over these plan folders."""
    for name, plan in plans.items():
        shutil.copytree(plan, target / "deployments" / name)
    files = {
        f"deployments/{name}/plan.json": hashlib.sha256((plan / "plan.json").read_bytes()).hexdigest()
        for name, plan in plans.items()
    }
    target.mkdir(exist_ok=True)
    changed = replace(open_fleet(fleet), replicas=replicas, files=files)
    (target / "plan.json").write_bytes(dump_plan(changed))
    return target


def _replica(
    name: str, form: str, count: int, rate: float, plan: str = "", tier: str = "free"
) -> ReplicaPlan:
    group = GroupPlan("prefill" if form == "prefill" else "decode", "h20-x8", 1, Parallelism())
    path = f"deployments/{plan}" if plan else ""
    return ReplicaPlan(name, tier, form, "P/D", "h20-x8", count, (group,), 1.0, rate, 0.9, plan=path)


def deployed(folder: Path, output: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """The manifest of each deployment."""
    emit(folder, "dynamo", output, Settings(**{"checkpoint": "a/b", **settings}))
    found = sorted(output.glob("*/deployment.yaml"))
    return {path.parent.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in found}


def test_each_kind_of_replica_is_a_deployment(fleet: Path, tmp_path: Path) -> None:
    plan: FleetPlan = open_fleet(fleet)
    found = deployed(fleet, tmp_path / "out", name="chat")
    assert set(found) == {replica.name for replica in plan.replicas}
    names = {manifest["metadata"]["name"] for manifest in found.values()}
    assert names == {f"chat-{replica.name}" for replica in plan.replicas}
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert {f"{name}/deployment.yaml" for name in found} <= set(manifest["files"])
    assert any(note.startswith(f"{plan.replicas[0].name}: ") for note in manifest["notes"])


def test_long_names_still_differ(fleet: Path, tmp_path: Path) -> None:
    found = deployed(fleet, tmp_path / "out", name="x" * 80)
    names = [manifest["metadata"]["name"] for manifest in found.values()]
    assert len(set(names)) == len(names) > 1


def test_there_are_as_many_replicas_as_the_fleet_runs(fleet: Path, plans: Plans, tmp_path: Path) -> None:
    replicas = (
        _replica("free-1", "decode", 3, 60.0, "free-1"),
        _replica("free-2", "prefill", 5, 60.0),
        _replica("premium-1", "prefill", 7, 9.0, tier="premium"),
    )
    folder = rewritten(fleet, tmp_path / "fleet", {"free-1": plans("phases")}, replicas)
    emit(plans("phases"), "dynamo", tmp_path / "one", Settings(checkpoint="a/b"))
    one = components(yaml.safe_load((tmp_path / "one" / "deployment.yaml").read_text()))
    many = components(deployed(folder, tmp_path / "out")["free-1"])
    assert many["decode"]["replicas"] == 3 * one["decode"]["replicas"]
    assert many["prefill"]["replicas"] == 5 * one["prefill"]["replicas"]


def test_prefill_is_shared_by_what_each_kind_serves(fleet: Path, plans: Plans, tmp_path: Path) -> None:
    replicas = (
        _replica("free-1", "decode", 1, 30.0, "free-1"),
        _replica("free-2", "decode", 1, 10.0, "free-2"),
        _replica("free-3", "prefill", 4, 40.0),
        _replica("free-4", "prefill", 1, 5.0),
    )
    both = {"free-1": plans("phases"), "free-2": plans("phases")}
    found = deployments(rewritten(fleet, tmp_path / "fleet", both, replicas))
    assert [deployment.prefill_copies for deployment in found] == [4, 2]
    told = " ".join(found[0].notes)
    assert "each has its share, rounded up" in told and "of several shapes" in told


def test_a_drafter_is_left_to_the_engine_and_told(fleet: Path, plans: Plans, tmp_path: Path) -> None:
    one = _replica("free-1", "decode", 1, 30.0, "free-1")
    drafter = GroupPlan("drafter", "groq3-lpx", 16, Parallelism())
    replicas = (replace(one, groups=(*one.groups, drafter)),)
    (found,) = deployments(rewritten(fleet, tmp_path / "fleet", {"free-1": plans("phases")}, replicas))
    assert found.notes == ("Its drafter, on 16 devices of groq3-lpx, is not written: add it to the engine.",)


def test_one_deployment_that_cannot_be_expressed_refuses_the_fleet(
    fleet: Path, plans: Plans, tmp_path: Path
) -> None:
    replicas = (_replica("a", "whole", 1, 1.0, "a"), _replica("b", "whole", 1, 1.0, "b"))
    both = {"a": plans("colocated"), "b": plans("experts")}
    folder = rewritten(fleet, tmp_path / "fleet", both, replicas)
    with pytest.raises(
        PlanError, match=r"Deployment 'b': .*Use --backend afd-plugin.*with --deployment NAME"
    ):
        emit(folder, "vllm", tmp_path / "out", Settings(checkpoint="a/b"))
    assert not (tmp_path / "out").exists()
    emit(folder, "vllm", tmp_path / "out", Settings(checkpoint="a/b"), only=["a"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "emitted.json"]


def test_a_deployment_that_is_none_is_refused(fleet: Path, plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"--deployment 'fre-1': there is none of this name\. Did you mean 'free-1'"
    ):
        emit(fleet, "vllm", tmp_path / "out", Settings(checkpoint="a/b"), only=["fre-1"])
    with pytest.raises(JobError, match="The folder is of one plan; leave it out"):
        emit(plans("colocated"), "vllm", tmp_path / "out", Settings(checkpoint="a/b"), only=["x"])


def test_a_fleet_that_runs_nothing_is_refused(fleet: Path, tmp_path: Path) -> None:
    folder = rewritten(fleet, tmp_path / "fleet", {}, ())
    with pytest.raises(PlanError, match="runs nothing, so there is nothing to write"):
        emit(folder, "vllm", tmp_path / "out", Settings(checkpoint="a/b"))
