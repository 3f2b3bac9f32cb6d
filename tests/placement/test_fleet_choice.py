"""The mix that is chosen is the one that trying every mix finds, for every objective; what is in conflict."""

import itertools
from dataclasses import replace

import pytest
from fleets import HBM, SRAM, best_value, column, every_mix, priced, small_wanted, tier

from disaggc.errors import InfeasiblePlanError, TargetError
from disaggc.placement.fleet.audit import Mix, audit
from disaggc.placement.fleet.choose import choose, objective_of
from disaggc.placement.fleet.columns import undominated
from disaggc.placement.fleet.conflict import facts_of, smallest_conflict, under
from disaggc.placement.fleet.decide import Wish, decide_fleet
from disaggc.placement.fleet.demand import Budget, Demand, Fleet
from disaggc.placement.fleet.economics import paybacks
from disaggc.placement.fleet.master import Market

FLEET: Fleet = ((priced(HBM, 8.0), 1), (priced(SRAM, 3.0), 2))
COLUMNS = (
    column(0, "whole", "vr-nvl72", 2.0, vr_nvl72=2),
    column(0, "whole", "vr-nvl72", 5.0, vr_nvl72=4),
    column(1, "decode", "vr-nvl72", 3.0, vr_nvl72=2, groq3_lpx=4),
    column(1, "prefill", "vr-nvl72", 2.5, vr_nvl72=1),
    column(1, "whole", "groq3-lpx", 1.0, groq3_lpx=4),
)
TIERS = (tier("cheap", 1.0), tier("dear", 20.0))
ASKED = (tier("cheap", 1.0, 6.0), tier("dear", 20.0, 2.0))
MARKETS = {
    "open": Market(COLUMNS, TIERS, FLEET),
    "asked": Market(COLUMNS, ASKED, FLEET),
    "half is enough": Market(COLUMNS, tuple(replace(t, least_share=0.5) for t in ASKED), FLEET),
    "little power": Market(COLUMNS, TIERS, FLEET, Budget(power_w=HBM.power.si * 1.01)),
    "little money": Market(COLUMNS, TIERS, FLEET, Budget(usd_per_h=11.0)),
    "one column given": Market(COLUMNS, TIERS, FLEET, fixed={1: 2}),
}
OBJECTIVES = ("revenue", "profit", "throughput", "tokens_per_mw", "cost")


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("case", MARKETS)
def test_the_choice_is_what_trying_every_mix_finds(case: str, name: str) -> None:
    market = MARKETS[case]
    objective = objective_of(name, market.tiers, market.fleet)
    choice = choose(market, objective, tolerance=0.0)
    tried = replace(market, fixed={})
    if market.fixed:
        values = [
            objective.value(audit(COLUMNS, market.tiers, FLEET, market.budget, mix), mix)
            for mix, served in every_mix(tried)
            if mix.replicas[1] == 2 and any(served)
        ]
        best: float | None = objective.sign * max(objective.sign * v for v in values)
    else:
        best = best_value(tried, objective)
    assert choice is not None and best is not None
    assert choice.value == pytest.approx(best, rel=1e-6)
    assert choice.bound == pytest.approx(best, rel=1e-6)
    assert not choice.audit.broken


def test_a_simpler_mix_may_give_up_half_a_per_cent_and_says_so() -> None:
    columns = (*COLUMNS, column(0, "whole", "vr-nvl72", 9.96, vr_nvl72=8))
    market = Market(columns, TIERS[:1], FLEET[:1])
    objective = objective_of("throughput", market.tiers, market.fleet)
    choice = choose(replace(market, columns=tuple(c for c in columns if c.tier == 0)), objective)
    assert choice is not None
    assert choice.mix.replicas == (0, 0, 1), "one replica of 9.96 instead of two of 5"
    assert choice.gap == pytest.approx(0.004)
    assert choice.bound == pytest.approx(10 * 500)


def test_the_second_objective_decides_among_the_best_of_the_first() -> None:
    market = Market(COLUMNS, tuple(replace(t, least_share=0.0) for t in ASKED), FLEET)
    revenue, cost = (objective_of(n, market.tiers, FLEET, n == "cost") for n in ("revenue", "cost"))
    first, both = choose(market, revenue, tolerance=0.0), choose(market, revenue, cost, tolerance=0.0)
    assert first is not None and both is not None
    assert both.value == pytest.approx(first.value)
    cheapest = min(
        sum(n * s.usd_per_h.si for n, (s, _) in zip(mix.systems, FLEET, strict=True) if s.usd_per_h)
        for mix, served in every_mix(market)
        if sum(v * t.usd_per_request * 3600 for v, t in zip(served, market.tiers, strict=True))
        >= first.value * (1 - 1e-9)
    )
    spent = sum(n * s.usd_per_h.si for n, (s, _) in zip(both.mix.systems, FLEET, strict=True) if s.usd_per_h)
    assert spent == pytest.approx(cheapest)


def test_dominated_columns_change_no_optimum() -> None:
    worse = (
        column(0, "whole", "vr-nvl72", 3.9, vr_nvl72=4),
        column(1, "decode", "vr-nvl72", 3.0, vr_nvl72=4, groq3_lpx=4),
        column(1, "prefill", "vr-nvl72", 4.9, vr_nvl72=2),
    )
    assert set(undominated((*COLUMNS, *worse))) == set(COLUMNS)
    for name in OBJECTIVES:
        objective = objective_of(name, TIERS, FLEET)
        assert best_value(Market((*COLUMNS[1:], *worse[:1]), TIERS, FLEET), objective) == pytest.approx(
            best_value(Market(COLUMNS[1:], TIERS, FLEET), objective)
        )


def test_near_a_present_plan_a_little_more_demand_moves_nothing() -> None:
    objective = objective_of("cost", ASKED, FLEET)
    market = replace(MARKETS["asked"], tiers=(ASKED[0], replace(ASKED[1], requests_per_s=1.5)))
    now = choose(market, objective)
    assert now is not None
    present = {k: n for k, n in enumerate(now.mix.replicas) if n}
    more = tuple(replace(t, requests_per_s=(t.requests_per_s or 0) * 1.01) for t in market.tiers)
    kept = choose(replace(market, tiers=more), objective, None, present, 0.02)
    assert kept is not None
    assert kept.mix.replicas == now.mix.replicas


def test_near_a_present_plan_no_more_is_given_up_than_allowed() -> None:
    objective = objective_of("throughput", TIERS, FLEET)
    best = choose(MARKETS["open"], objective, tolerance=0.0)
    kept = choose(MARKETS["open"], objective, None, {4: 2}, 0.02)
    assert best is not None and kept is not None
    assert kept.value >= best.value * 0.98 - 1e-6


@pytest.mark.parametrize(
    ("tiers", "budget", "conflict"),
    [
        ((tier("cheap", 1.0, 11.0),), Budget(), {"demand", "systems"}),
        ((tier("cheap", 1.0, 6.0), tier("dear", 20.0, 4.0)), Budget(), {"demand", "systems"}),
        ((tier("cheap", 1.0, 4.0),), Budget(power_w=1.0), {"demand", "power"}),
        ((tier("cheap", 1.0, 4.0),), Budget(usd_per_h=7.0), {"demand", "usd"}),
    ],
)
def test_the_conflict_is_the_smallest_that_trying_every_set_finds(
    tiers: tuple[Demand, ...], budget: Budget, conflict: set[str]
) -> None:
    columns = tuple(c for c in COLUMNS if c.tier < len(tiers))
    market = Market(columns, tiers, FLEET, budget)
    found = smallest_conflict(market)
    assert {fact.kind for fact in found} == conflict
    objective = objective_of("throughput", tiers, FLEET)
    assert choose(market, objective) is None
    assert choose(under(market, found), objective) is None
    for kept in itertools.combinations(facts_of(market), len(found) - 1):
        assert choose(under(market, kept), objective) is not None, "no smaller set is in conflict"


def test_satisfiable_facts_are_in_no_conflict() -> None:
    assert smallest_conflict(MARKETS["asked"]) == ()


def test_the_audit_names_each_limit_that_a_mix_breaks() -> None:
    market = Market(COLUMNS, ASKED, FLEET, Budget(power_w=1.0, usd_per_h=1.0))
    found = audit(COLUMNS, market.tiers, FLEET, market.budget, Mix((0, 3, 0, 0, 0), (2, 0)))
    assert [text.split(" ")[0] for text in found.broken[:1]] == ["2"]
    assert len(found.broken) == 4, "too many systems, power, money, and a demand that is not met"


def test_the_audit_refuses_replicas_that_lie_across_two_systems() -> None:
    two = ((HBM, 2), (SRAM, 2))
    columns = (
        column(0, "whole", "vr-nvl72", 1.0, vr_nvl72=8),
        column(0, "whole", "vr-nvl72", 1.0, vr_nvl72=4),
    )
    fits = audit(columns, TIERS[:1], two, Budget(), Mix((1, 2), (2, 0)))
    over = audit(columns, TIERS[:1], two, Budget(), Mix((1, 3), (2, 0)))
    assert not fits.broken
    assert "do not fit" in over.broken[0]


def test_a_system_pays_from_its_price_over_what_it_adds() -> None:
    found = {(p.system, p.tier): p for p in paybacks(MARKETS["open"])}
    adds = found["groq3-lpx", "dear"]
    assert adds.added_tokens_per_s == pytest.approx(2 * 3.0 * 500, rel=1e-5)
    assert adds.usd_per_mtok == pytest.approx(2 * 3.0 / (adds.added_tokens_per_s * 3600 / 1e6))
    assert found["groq3-lpx", "cheap"].usd_per_mtok is None, "it adds nothing there"


def test_cost_needs_a_price_for_every_system() -> None:
    with pytest.raises(TargetError, match="No price an hour is declared for 'vr-nvl72'"):
        objective_of("cost", TIERS, ((replace(HBM, usd_per_h=None), 1),))


def test_what_cannot_be_served_names_conflict_reasons_and_a_cure_that_works() -> None:
    tiers = (tier("calm", 1.0, 1.0), tier("crowd", 1.0, 4e4))
    wanted = small_wanted(((HBM, 1),), tiers)
    with pytest.raises(InfeasiblePlanError) as caught:
        decide_fleet(wanted, Wish("throughput"))
    text = str(caught.value)
    assert "No plan on 1 x vr-nvl72 serves what must be served." in text
    assert "crowd asks for 4e+04 requests/s" in text and "calm asks" not in text
    cure = next(line for line in text.splitlines() if line.strip().startswith("crowd: requests_per_s = "))
    less = float(cure.split(" = ")[1].split(" ")[0])
    fewer = (tiers[0], replace(tiers[1], requests_per_s=less))
    assert decide_fleet(replace(wanted, tiers=fewer), Wish("throughput")).choice.audit.served[
        1
    ] == pytest.approx(less)


def test_a_tier_that_no_pattern_serves_is_told_why() -> None:
    tiers = (tier("calm", 1.0), tier("rush", 1.0, 1.0, speed=50_000.0))
    with pytest.raises(InfeasiblePlanError) as caught:
        decide_fleet(small_wanted(((HBM, 1),), tiers), Wish("throughput"))
    text = str(caught.value)
    assert "No pattern serves rush:" in text and "too slow" in text
    cure = next(
        line for line in text.splitlines() if line.strip().startswith("rush: tokens_per_s_per_user = ")
    )
    speed = float(cure.split(" = ")[1].split(" ")[0])
    eased = (tiers[0], tier("rush", 1.0, 1.0, speed=speed))
    found = decide_fleet(small_wanted(((HBM, 1),), eased), Wish("throughput"))
    assert found.choice.audit.served[1] == pytest.approx(1.0)


def test_open_tiers_that_nothing_serves_are_told_why_and_what_would_help() -> None:
    with pytest.raises(InfeasiblePlanError) as caught:
        decide_fleet(small_wanted(((HBM, 1),), (tier("rush", 1.0, speed=50_000.0),)), Wish("throughput"))
    assert "rush: tokens_per_s_per_user = " in str(caught.value)


def test_replicas_of_a_present_plan_that_serve_nobody_any_more_are_told() -> None:
    wanted = small_wanted(((HBM, 1),), (tier("calm", 1.0, 1.0),))
    gone = ("calm", "whole", "groq3-lpx", (("groq3-lpx", 4),))
    found = decide_fleet(wanted, Wish("throughput", present={gone: 3}))
    assert [(m.before, m.after, m.worth) for m in found.moved if m.signature == gone] == [(3, 0, None)]
