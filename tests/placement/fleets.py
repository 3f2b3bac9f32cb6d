"""Small markets and fleets made by hand, to be solved by trying every mix."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from made import FP8, decoder, rack

from disaggc.cost import Group
from disaggc.placement.fleet.audit import Mix, audit
from disaggc.placement.fleet.choose import Objective
from disaggc.placement.fleet.columns import Column
from disaggc.placement.fleet.demand import Demand, Fleet, Wanted
from disaggc.placement.fleet.master import Market
from disaggc.placement.pricing import Limits, Load
from disaggc.targets import Confidence, Figure, System

HBM, SRAM = rack("vr-nvl72", 8), rack("groq3-lpx", 4)
LOAD = Load(500, 7_000, 500, 8_000)


def tier(
    name: str, price: float, demand: float | None = None, least: float = 1.0, speed: float = 20.0
) -> Demand:
    """A tier of short requests."""
    return Demand(name, LOAD, Limits(1 / speed, 10.0), price, demand, least)


def priced(system: System, usd_per_h: float) -> System:
    """The system at another price an hour."""
    price = Figure(usd_per_h, "USD/h", "inferred", "2026-11-25", Confidence.I, 0.0, 99.0, "made for a test")
    return replace(system, usd_per_h=price)


def column(of: int, form: str, home: str, rate: float, **uses: int) -> Column:
    """A column that says what it serves without a pattern behind it."""
    named = tuple(sorted((name.replace("_", "-"), n) for name, n in uses.items()))
    groups = (Group(HBM, 1, 1, 1, 1, 1),)
    return Column(
        of, form, f"{form} on {home}", home, named, rate, groups, batch=1, micro_batches=1, step_s=0.01
    )


def every_mix(market: Market) -> Iterator[tuple[Mix, tuple[float, ...]]]:
    """Every mix that breaks no limit, with what it serves of each tier."""
    counts = {s.name: s.devices * n for s, n in market.fleet}
    most = [min(counts[name] // n for name, n in c.uses) for c in market.columns]
    for systems in itertools.product(*(range(n + 1) for _, n in market.fleet)):
        for replicas in itertools.product(*(range(n + 1) for n in most)):
            mix = Mix(replicas, systems)
            found = audit(market.columns, market.tiers, market.fleet, market.budget, mix)
            if not found.broken:
                yield mix, found.served


def best_value(market: Market, objective: Objective) -> float | None:
    """The best value of an objective by trying every mix; None if none is feasible or serves anything."""
    values = []
    for mix, _ in every_mix(market):
        found = audit(market.columns, market.tiers, market.fleet, market.budget, mix)
        if objective.spent is None or (any(found.served) and any(mix.systems)):
            values.append(objective.value(found, mix))
    return None if not values else objective.sign * max(objective.sign * v for v in values)


def small_wanted(fleet: Fleet, tiers: tuple[Demand, ...]) -> Wanted:
    """A decoder of eight layers on a fleet."""
    return Wanted(decoder(), fleet, tiers, FP8)
