"""`disaggc diff`: what changed between two plans, and what moving costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import EXAMPLES, tiny_job, tiny_plan

from disaggc import cli
from disaggc.compiler import compile_job
from disaggc.plans import Formats, Plan, SearchSpec, open_plan
from disaggc.report import difference, difference_tables
from disaggc.report.console import Screen
from disaggc.report.difference import Difference

RATES = {"vr-nvl72": 100e9, "groq3-lpx": 10e9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return open_plan(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same job without its LPX rack."""
    output = tmp_path_factory.mktemp("alone") / "plan"
    job = replace(tiny_job(), fleet={"vr-nvl72": 1}, search=SearchSpec(batch=(4096,), micro_batches=(1,)))
    compile_job(job, EXAMPLES, output)
    return output


def _changed(found: Difference) -> dict[str, tuple[str, str]]:
    return {change.what: (change.before, change.after) for change in found.changes}


def test_a_plan_does_not_differ_from_itself(plan: Plan) -> None:
    found = difference(plan, plan, RATES)
    assert (found.changes, found.loads) == ((), ())
    assert [cache.fate for cache in found.caches] == ["stay"]


def test_what_leaves_and_what_moves_is_told(plan: Plan, alone: Path) -> None:
    after = open_plan(alone)
    found = difference(plan, after, RATES)
    changed = _changed(found)
    assert changed["mode"] == (plan.mode, "colocated on vr-nvl72")
    assert changed["pool groq3-lpx"][1] == ""
    assert changed["experts in decode"] == ("groq3-lpx", "vr-nvl72")
    assert "core_attention in decode" not in changed
    assert "tokens/s" in changed


def test_a_pool_loads_the_weights_that_come_to_it(plan: Plan, alone: Path) -> None:
    after = open_plan(alone)
    load = next(x for x in difference(plan, after, RATES).loads if x.pool == "vr-nvl72")
    pool = after.pools[0]
    assert load.bytes == pytest.approx(pool.memory.weights * pool.devices, rel=1e-6)
    assert "experts" in load.roles
    assert load.seconds == pytest.approx(load.bytes / 100e9)


def test_roles_that_stay_where_they_are_are_not_loaded_again(plan: Plan) -> None:
    vr, lpx = plan.pools
    size = next(x.weight_bytes for x in plan.loads if (x.phase, x.role) == ("decode", "experts"))
    moved = replace(
        plan,
        pools=(replace(vr, memory=replace(vr.memory, weights=size)), lpx),
        loads=tuple(
            replace(x, pool="vr-nvl72") if (x.phase, x.role) == ("decode", "experts") else x
            for x in plan.loads
        ),
    )
    (load,) = difference(plan, moved, RATES).loads
    assert (load.pool, load.roles, load.reason) == ("vr-nvl72", ("experts",), "these roles were not there")
    assert load.bytes == pytest.approx(size * vr.devices)
    assert difference(moved, plan, RATES).loads == ()  # prefill keeps its experts on groq3-lpx


CASES = {
    "model": ("the model is another", "drop"),
    "kv": ("caches are bf16 instead of fp8", "drop"),
    "split": ("they are split another way", "reshard"),
}


@pytest.mark.parametrize("case", CASES)
def test_caches_are_dropped_or_split_anew_with_a_reason(case: str, plan: Plan) -> None:
    vr, lpx = plan.pools
    after = {
        "model": replace(plan, model=replace(plan.model, sha256="0" * 64)),
        "kv": replace(plan, formats=Formats("fp8", "bf16", "bf16")),
        "split": replace(plan, pools=(replace(vr, parallelism=replace(vr.parallelism, tp=1, dp=72)), lpx)),
    }[case]
    (cache,) = difference(plan, after, RATES).caches
    assert (cache.reason, cache.fate) == CASES[case]
    held = sum(x.cache_bytes for x in plan.loads if x.pool == "vr-nvl72")
    assert cache.bytes == pytest.approx(held * 72)
    assert (cache.seconds is None) == (cache.fate == "drop")


def test_another_model_is_loaded_whole_and_another_split_too(plan: Plan) -> None:
    other = replace(plan, model=replace(plan.model, sha256="0" * 64))
    loads = {x.pool: x for x in difference(plan, other, RATES).loads}
    assert loads["groq3-lpx"].reason == "the model is another"
    _, lpx = plan.pools
    split = replace(plan, pools=(plan.pools[0], replace(lpx, devices=16)))
    loads = {x.pool: x for x in difference(plan, split, RATES).loads}
    assert loads["groq3-lpx"].reason == "they are split another way"


def test_where_no_rate_is_declared_no_time_is_told(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    other = replace(plan, model=replace(plan.model, sha256="0" * 64))
    found = difference(plan, other, {})
    assert all(load.seconds is None for load in found.loads)
    Screen().show(*difference_tables(found))
    assert "over its links" not in capsys.readouterr().out


def test_the_command_tells_people_and_programs(
    folder: Path, alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["diff", str(folder), str(alone)]) == 0
    told = capsys.readouterr().out
    assert "What changed" in told and "What it costs to move" in told
    table = told.partition("What it costs")[0]
    assert max(map(len, table.splitlines())) <= 100
    assert cli.main(["diff", str(folder), str(alone), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["loads"][0]["pool"] == "vr-nvl72"
    assert data["loads"][0]["seconds"] > 0


def test_equal_plans_agree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diff", str(folder), str(folder)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("The plans agree.\n")
    assert "no weights to load" in told


def test_a_folder_without_a_plan_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["diff", str(folder), str(tmp_path)]) == 1
    assert "No plan in" in capsys.readouterr().err
