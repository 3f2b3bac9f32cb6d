"""`disaggc diff` of two plans of a fleet: what came, went and changed, and what moving costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import EXAMPLES, fleet_folder, tiny_plan, two_tiers

from disaggc import cli
from disaggc.commands.arguments import opened_fleet
from disaggc.compiler import compile_fleet
from disaggc.plans import Change, FleetPlan, Formats, ReplicaPlan, open_fleet
from disaggc.report import Fleet, fleet_difference
from disaggc.report.fleet_difference import FleetDifference, ReplicaChange

RATES = {"vr-nvl72": 100e9, "groq3-lpx": 10e9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fleet_folder(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Fleet:
    return opened_fleet(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tiers without the LPX rack, kept near what runs with it."""
    output = tmp_path_factory.mktemp("alone") / "plan"
    present = open_fleet(fleet_folder(tmp_path_factory.getbasetemp()))
    compile_fleet(replace(two_tiers(), fleet={"vr-nvl72": 1}), EXAMPLES, output, None, present)
    return output


def _changed(found: FleetDifference) -> dict[str, tuple[str, str]]:
    return {change.what: (change.before, change.after) for change in found.changes}


def _with(fleet: Fleet, index: int, **other: object) -> Fleet:
    """The fleet with one kind of replica made otherwise."""
    kinds = list(fleet.plan.replicas)
    kinds[index] = replace(kinds[index], **other)  # type: ignore[arg-type]  # fields of any kind
    return replace(fleet, plan=replace(fleet.plan, replicas=tuple(kinds)))


def _of(found: FleetDifference, replica: ReplicaPlan) -> ReplicaChange:
    return next(r for r in found.replicas if r.tier == replica.tier)


def test_a_fleet_does_not_differ_from_itself(fleet: Fleet) -> None:
    found = fleet_difference(fleet, fleet, RATES)
    assert found.is_none and (found.changes, found.loads) == ((), ())
    assert all((r.fate, r.weight_bytes, r.cache_bytes) == ("stays", 0, 0) for r in found.replicas)


def test_what_came_and_went_is_told_with_what_it_loads(fleet: Fleet, alone: Path) -> None:
    after = opened_fleet(alone)
    found = fleet_difference(fleet, after, RATES)
    changed = _changed(found)
    assert changed["groq3-lpx used"] == ("1 of 1", "")
    assert changed["vr-nvl72 used"] == ("0 of 1", "1 of 1")
    fates = {(r.fate, "groq3-lpx" in r.replica) for r in found.replicas}
    assert fates == {("stops", True), ("starts", False)}
    started = [r for r in after.plan.replicas if r.plan]
    own = sum(
        r.replicas * pool.memory.weights * pool.devices
        for r in started
        for pool in after.deployed[r.name].pools
        if f"{pool.system}" == "vr-nvl72"
        and any(s.pool == pool.name for s in after.deployed[r.name].decode.stages)
    )
    fed = sum(r.weight_bytes or 0.0 for r in found.replicas if r.replica.startswith("prefill"))
    (load,) = found.loads
    assert load.system == "vr-nvl72"
    assert load.bytes == pytest.approx(own + fed, rel=1e-6)
    assert load.seconds == pytest.approx(load.bytes / RATES["vr-nvl72"])


def test_replicas_that_stop_lose_their_caches_at_full_load_at_most(fleet: Fleet, alone: Path) -> None:
    found = fleet_difference(fleet, opened_fleet(alone), RATES)
    for replica in fleet.plan.replicas:
        held = sum(p.memory.kv * p.devices for p in fleet.deployed[replica.name].pools)
        assert _of(found, replica).cache_bytes == pytest.approx(replica.replicas * held)


def test_more_of_a_kind_load_and_fewer_lose_their_share(fleet: Fleet) -> None:
    one = fleet.plan.replicas[0]
    three = _with(fleet, 0, replicas=3)
    each = sum(p.memory.weights * p.devices for p in fleet.deployed[one.name].pools)
    more = _of(fleet_difference(fleet, three, RATES), one)
    assert (more.fate, more.before, more.after, more.cache_bytes) == ("starts", one.replicas, 3, 0)
    assert more.weight_bytes == pytest.approx(each * (3 - one.replicas))
    fewer = _of(fleet_difference(three, fleet, RATES), one)
    assert (fewer.fate, fewer.weight_bytes) == ("stops", 0)
    assert fewer.cache_bytes > 0


def test_another_split_on_the_same_devices_is_a_restart(fleet: Fleet) -> None:
    one = fleet.plan.replicas[0]
    group = one.groups[0]
    other = replace(group, parallelism=replace(group.parallelism, pp=group.parallelism.pp + 1))
    found = _of(fleet_difference(fleet, _with(fleet, 0, groups=(other,)), RATES), one)
    assert (found.fate, found.reason) == ("restarts", "they are split another way")
    assert found.weight_bytes and found.cache_bytes


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"formats": Formats("nvfp4", "fp8", "bf16")}, "formats are others"),
        ({"model": None}, "the model is another"),
    ],
)
def test_another_model_or_format_restarts_everything(
    fleet: Fleet, changed: dict[str, object], reason: str
) -> None:
    if "model" in changed:
        changed = {"model": replace(fleet.plan.model, sha256="0" * 64)}
    plan: FleetPlan = replace(fleet.plan, **changed)  # type: ignore[arg-type]  # fields of any kind
    found = fleet_difference(fleet, replace(fleet, plan=plan), RATES)
    assert {(r.fate, r.reason) for r in found.replicas} == {("restarts", reason)}
    assert sum(load.bytes for load in found.loads) > 0


def test_a_change_is_worth_what_the_kept_plan_says(fleet: Fleet) -> None:
    one = fleet.plan.replicas[0]
    more = _with(fleet, 0, replicas=one.replicas + 1)
    label = f"{one.form} on " + " + ".join(f"{g.devices} of {g.system}" for g in one.groups)
    told = Change(one.tier, label, one.replicas, one.replicas + 1, 12.5)
    kept = replace(more, plan=replace(more.plan, kept=True, changes=(told,)))
    assert _of(fleet_difference(fleet, kept, RATES), one).worth == 12.5
    assert _of(fleet_difference(fleet, more, RATES), one).worth is None


def test_where_nobody_knows_a_prefill_pools_weights_it_is_told_so(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    from disaggc.report import fleet_difference_tables
    from disaggc.report.console import Screen

    extra = replace(fleet.plan.replicas[0], name="x-prefill-1", form="prefill", plan="")
    odd = replace(extra, groups=(replace(extra.groups[0], devices=7),))
    after = replace(fleet, plan=replace(fleet.plan, replicas=(*fleet.plan.replicas, odd)))
    found = fleet_difference(fleet, after, RATES)
    assert found.replicas[-1].weight_bytes is None
    Screen().show(*fleet_difference_tables(found))
    assert "weights to load are not known (no deployment has that pool)" in capsys.readouterr().out


def test_the_command_tells_people_and_programs(
    folder: Path, alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["diff", str(folder), str(alone)]) == 0
    told = capsys.readouterr().out
    for words in ("What changed", "What becomes of each replica", "What it costs to move", "loads"):
        assert words in told
    assert max(map(len, told.splitlines())) <= 100
    assert cli.main(["diff", str(folder), str(alone), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {r["fate"] for r in data["replicas"]} == {"starts", "stops"}
    assert data["loads"][0]["seconds"] > 0
    assert cli.main(["diff", str(folder), str(folder)]) == 0
    assert capsys.readouterr().out == "The plans agree.\n"


def test_a_fleet_and_a_plan_are_not_compared(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_plan(tmp_path_factory.getbasetemp())
    for pair in ([folder, other], [other, folder]):
        assert cli.main(["diff", *map(str, pair)]) == 1
        told = " ".join(capsys.readouterr().err.split())
        assert (
            f"'{folder}' is the plan of a fleet, and '{other}' that of one tier. Compare two of a kind"
            in told
        )
        assert "deployments/high-1" in told
