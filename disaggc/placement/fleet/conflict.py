"""Why what must be served cannot be: the smallest set of facts that contradict each other, and what mends it.

A fact is a tier's demand, how many there are of a system, or a budget. Sets of them are tried in the order of
their size, every other fact lifted, until one has no feasible mix; so no smaller set is in conflict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from disaggc.placement.fleet.columns import Book, undominated
from disaggc.placement.fleet.demand import Budget, Demand, Fleet, Wanted
from disaggc.placement.fleet.master import Market, Master, Worth
from disaggc.placement.fleet.space import Space

PLENTY = 1_000
"""Systems of a kind where their number is lifted."""
MORE_SYSTEMS = 4
"""How many more of a system are tried as a cure."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that a job states.

    Attributes:
        kind: 'demand', 'systems', 'power' or 'usd'.
        index: Of the tier or system.
        text: In words.
    """

    kind: str
    index: int
    text: str


def facts_of(market: Market) -> list[Fact]:
    """Everything that could be in conflict: demands that must be served, machines, budgets."""
    found = [
        Fact("demand", k, f"{t.name} asks for {t.least_requests_per_s:,.4g} requests/s")
        for k, t in enumerate(market.tiers)
        if t.least_requests_per_s > 0
    ]
    found += [Fact("systems", k, f"there {_are(n)} {n} x {s.name}") for k, (s, n) in enumerate(market.fleet)]
    budget = market.budget
    if budget.power_w is not None:
        found.append(Fact("power", 0, f"power_kw = {budget.power_w / 1e3:,.4g}"))
    if budget.usd_per_h is not None:
        found.append(Fact("usd", 0, f"usd_per_h = {budget.usd_per_h:,.4g}"))
    return found


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def smallest_conflict(market: Market) -> tuple[Fact, ...]:
    """The smallest set of facts that no mix satisfies; empty if all of them can be satisfied."""
    facts = facts_of(market)
    for size in range(1, len(facts) + 1):
        for kept in itertools.combinations(facts, size):
            if not _is_feasible(under(market, kept)):
                return kept
    return ()


def _is_feasible(market: Market) -> bool:
    return Master(market).best(Worth()) is not None


def under(market: Market, kept: tuple[Fact, ...]) -> Market:
    """The market under some facts alone."""
    held = {(fact.kind, fact.index) for fact in kept}
    tiers = tuple(t if ("demand", k) in held else lifted(t) for k, t in enumerate(market.tiers))
    fleet = tuple((s, n if ("systems", k) in held else PLENTY) for k, (s, n) in enumerate(market.fleet))
    budget = Budget(
        market.budget.power_w if ("power", 0) in held else None,
        market.budget.usd_per_h if ("usd", 0) in held else None,
    )
    return replace(market, tiers=tiers, fleet=fleet, budget=budget)


def lifted(demand: Demand) -> Demand:
    """A tier of which nothing must be served."""
    return replace(demand, least_share=0.0)


def cures(
    wanted: Wanted, market: Market, conflict: tuple[Fact, ...], tell: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Single changes of a fact in conflict that make a mix possible, with the nearest value that works."""
    found: list[str] = []
    for fact in conflict:
        tell(f"what would help: {fact.text}")
        if fact.kind == "demand":
            found += _less_demand(market, fact.index)
        elif fact.kind == "systems":
            found += _more_systems(wanted, fact.index)
        else:
            found += _larger_budget(market, fact.kind)
    if [fact.kind for fact in conflict] == ["demand"]:  # no number of the present systems serves it
        for k, (system, _) in enumerate(wanted.fleet):
            tell(f"what would help: more {system.name}")
            found += _more_systems(wanted, k)
    return found


def slower(
    wanted: Wanted, book: Book, tier: int, tell: Callable[[str], None] = lambda _: None
) -> Iterator[str]:
    """The fastest rate at which a tier that no pattern serves can be served, if that alone helps."""
    demand = wanted.tiers[tier]
    fastest_s = min(t.fastest_token_s for (of, _), t in book.tallies.items() if of == tier)
    speed = math.floor(1 / fastest_s) if math.isfinite(fastest_s) else 0
    if not 0 < speed < demand.tokens_per_s_per_user:
        return
    tell(f"what would help: {demand.name} at {speed:,} tokens/s/user")
    limits = replace(demand.limits, tpot_s=demand.load.accepted / speed)
    tiers = tuple(replace(t, limits=limits) if k == tier else t for k, t in enumerate(wanted.tiers))
    columns = tuple(undominated(Space(replace(wanted, tiers=tiers)).priced().columns.values()))
    found = Master(Market(columns, tiers, wanted.fleet, wanted.budget)).best(
        Worth(tuple(float(k == tier) for k in range(len(tiers))))
    )
    if found is not None and found.value > 0:
        asked = f"asked: {demand.tokens_per_s_per_user:g}"
        yield f"{demand.name}: tokens_per_s_per_user = {speed} or less ({asked})"


def _less_demand(market: Market, tier: int) -> Iterator[str]:
    demand = market.tiers[tier]
    tiers = tuple(lifted(t) if k == tier else t for k, t in enumerate(market.tiers))
    worth = Worth(tuple(float(k == tier) for k in range(len(tiers))))
    most = Master(replace(market, tiers=tiers)).best(worth)
    if most is not None and most.value > 0:
        asked = f"asked: {demand.least_requests_per_s:,.4g}"
        yield f"{demand.name}: requests_per_s = {_floor(most.value):g} or less ({asked})"


def _floor(value: float) -> float:
    """Four digits, rounded down."""
    scale = 10 ** (3 - math.floor(math.log10(value)))
    return float(math.floor(value * scale) / scale)


def _more_systems(wanted: Wanted, index: int) -> Iterator[str]:
    system, count = wanted.fleet[index]

    def with_count(n: int) -> Fleet:
        return tuple((s, n if k == index else c) for k, (s, c) in enumerate(wanted.fleet))

    most = replace(wanted, fleet=with_count(count + MORE_SYSTEMS))
    columns = tuple(undominated(Space(most).priced().columns.values()))
    for more in range(count + 1, count + MORE_SYSTEMS + 1):
        if _is_feasible(Market(columns, wanted.tiers, with_count(more), wanted.budget)):
            yield f"{system.name} = {more} (asked: {count})"
            return


def _larger_budget(market: Market, kind: str) -> Iterator[str]:
    fleet = market.fleet
    if kind == "power":
        budget, each = replace(market.budget, power_w=None), [s.power.si for s, _ in fleet]
    else:
        budget = replace(market.budget, usd_per_h=None)
        each = [s.usd_per_h.si if s.usd_per_h is not None else 0.0 for s, _ in fleet]
    least = Master(replace(market, budget=budget)).best(Worth((), tuple(-v for v in each)))
    if least is not None:
        spent = sum(a * n for a, n in zip(each, least.mix.systems, strict=True))
        text = f"power_kw = {spent / 1e3:g}" if kind == "power" else f"usd_per_h = {spent:g}"
        yield f"[budget] {text} or more"
