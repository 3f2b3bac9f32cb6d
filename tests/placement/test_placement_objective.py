"""Objectives that hang on how much of a fleet is used, against every part of it by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jobs import EXAMPLES, tiny_job
from made import every_answer, rack, request
from rich.console import Console

from disaggc import report
from disaggc.compiler import compile_job
from disaggc.errors import JobError, TargetError
from disaggc.placement.objective import MEASURES, choose_fleet, megawatts, usd_per_h
from disaggc.placement.pricing import Limits
from disaggc.placement.search import Request
from disaggc.plans import Objective, open_plan, parse_job

FLEET = ((rack("h20-x8", 2), 2), (rack("l40s-x8", 2), 1))


def _best(wanted: Request, objective: str) -> tuple[float, list[int]]:
    """The best value over all parts of a fleet, and how many of each system it takes."""
    (first, n), (second, m) = wanted.fleet
    found = []
    for a in range(n + 1):
        for b in range(m + 1):
            fleet = tuple((s, k) for s, k in ((first, a), (second, b)) if k)
            rates = [x.tokens_per_s for x in every_answer(replace(wanted, fleet=fleet))] if fleet else []
            if rates:
                found.append((MEASURES[objective].of(max(rates), fleet), [a, b]))
    return (max if MEASURES[objective].sign > 0 else min)(found)


@pytest.mark.parametrize("objective", MEASURES)
def test_the_best_part_of_the_fleet_is_taken(objective: str) -> None:
    wanted = replace(request(FLEET), batches=(32,), micro_batches=(1,))
    chosen, parts = choose_fleet(wanted, objective)
    value, counts = _best(wanted, objective)
    assert parts[0].value == pytest.approx(value)
    assert chosen.fleet == parts[0].fleet
    assert [dict(chosen.fleet).get(system, 0) for system, _ in FLEET] == counts
    assert len(parts) == 3 * 2 - 1


def test_throughput_takes_the_fleet_as_it_is() -> None:
    wanted = request(FLEET)
    assert choose_fleet(wanted, "throughput") == (wanted, ())


def test_where_no_part_serves_the_tier_the_decision_says_why() -> None:
    wanted = replace(request(FLEET, limits=Limits(1e-9, None)), batches=(4,), micro_batches=(1,))
    assert choose_fleet(wanted, "tokens_per_mw") == (wanted, ())


def test_power_and_price_are_of_whole_systems() -> None:
    (h20, _), (l40s, _) = FLEET
    assert megawatts(((h20, 3), (l40s, 1))) == pytest.approx((3 * h20.power.si + l40s.power.si) / 1e6)
    assert h20.usd_per_h is not None
    assert usd_per_h(((h20, 2),)) == pytest.approx(2 * h20.usd_per_h.si)
    with pytest.raises(TargetError, match=r"No price an hour is declared for 'h20-x8'"):
        usd_per_h(((replace(h20, usd_per_h=None), 1),))


@pytest.mark.parametrize(
    ("objective", "why"),
    [
        (
            {"maximise": "cost"},
            "maximise = 'cost' is unknown. Use 'throughput', 'revenue', 'profit' or 'tokens_per_mw'",
        ),
        ({"minimise": "power"}, "minimise = 'power' is unknown. Use 'cost'"),
        ({"maximise": "throughput", "minimise": "cost"}, "both maximises and minimises"),
    ],
)
def test_an_objective_that_is_none_is_refused(objective: dict[str, Any], why: str) -> None:
    job = {
        "model": {"onnx": "m"},
        "fleet": {"cs3": 1},
        "tier": [{"like": "gtc2026/free"}],
        "objective": objective,
    }
    with pytest.raises(JobError, match=why):
        parse_job(job, "job.toml")


def test_a_plan_tells_what_every_part_of_the_fleet_comes_to(tmp_path: Path) -> None:
    job = replace(tiny_job(), objective=Objective(maximise="tokens_per_mw"))
    compile_job(job, EXAMPLES, tmp_path / "plan")
    plan = open_plan(tmp_path / "plan")
    assert plan.goal.objective == "tokens_per_mw"
    assert [option.chosen for option in plan.fleets] == [True, False, False]
    values = [option.value for option in plan.fleets if option.value is not None]
    assert values == sorted(values, reverse=True)
    printed = io.StringIO()
    console = Console(width=100, file=printed)
    for part in report.explain(plan):
        console.print(part)
    told = printed.getvalue()
    assert f"on {plan.fleets[0].fleet} of the fleet: " in told
    assert f"{plan.fleets[0].fleet} (chosen)" in told
