"""Judges a mix of replicas without a solver: what it takes, what it serves, which limits it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from disaggc.placement.fleet.columns import Column
from disaggc.placement.fleet.demand import Budget, Demand, Fleet
from disaggc.placement.fleet.shapes import packs

SLACK = 1e-6
"""Share that a limit may be exceeded by through rounding of the solver's numbers."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How many replicas of each column, and how many systems of each kind are used."""

    replicas: tuple[int, ...]
    systems: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """What a mix comes to.

    Attributes:
        served: Requests a second, by tier.
        streams: (tier, home) to requests a second that are decoded there, '' for whole columns.
        broken: Limits that do not hold, in words.
    """

    served: tuple[float, ...]
    streams: dict[tuple[int, str], float]
    broken: tuple[str, ...]


def audit(
    columns: Sequence[Column], tiers: Sequence[Demand], fleet: Fleet, budget: Budget, mix: Mix
) -> Audit:
    """What ``mix`` serves: each stream as much as its scarcer half, each tier no more than its demand."""
    streams = {}
    for tier, demand in enumerate(tiers):
        left = float("inf") if demand.requests_per_s is None else demand.requests_per_s
        for home in ("", *sorted({c.home for c in columns})):
            made = min(left, _capacity(columns, mix, tier, home))
            if made > 0:
                streams[tier, home], left = made, left - made
    served = tuple(sum(v for (t, _), v in streams.items() if t == tier) for tier in range(len(tiers)))
    broken = [*_overfull(columns, fleet, mix), *_unpaid(fleet, budget, mix), *_unserved(tiers, served)]
    return Audit(served, streams, tuple(broken))


def _capacity(columns: Sequence[Column], mix: Mix, tier: int, home: str) -> float:
    """Requests a second that are both prefilled for and decoded at a home; '' for whole columns."""

    def made(form: str) -> float:
        return sum(
            n * c.requests_per_s
            for c, n in zip(columns, mix.replicas, strict=True)
            if n and (c.tier, c.form) == (tier, form) and home in ("", c.home)
        )

    return made("whole") if not home else min(made("decode"), made("prefill"))


def _overfull(columns: Sequence[Column], fleet: Fleet, mix: Mix) -> list[str]:
    found = []
    for (system, count), used in zip(fleet, mix.systems, strict=True):
        sizes: dict[int, int] = {}
        for column, n in zip(columns, mix.replicas, strict=True):
            size = dict(column.uses).get(system.name, 0)
            if n and size:
                sizes[size] = sizes.get(size, 0) + n
        if used > count:
            found.append(f"{used} x {system.name} are used, and there are {count}")
        if not packs(system, used, sizes):
            found.append(f"replicas of {sizes} devices do not fit {used} x {system.name}")
    return found


def _unpaid(fleet: Fleet, budget: Budget, mix: Mix) -> list[str]:
    watts = sum(s.power.si * n for (s, _), n in zip(fleet, mix.systems, strict=True))
    usd = sum(
        s.usd_per_h.si * n for (s, _), n in zip(fleet, mix.systems, strict=True) if s.usd_per_h is not None
    )
    over = []
    if budget.power_w is not None and watts > budget.power_w * (1 + SLACK):
        over.append(f"{watts / 1e3:,.1f} kW are drawn, and {budget.power_w / 1e3:,.1f} allowed")
    if budget.usd_per_h is not None and usd > budget.usd_per_h * (1 + SLACK):
        over.append(f"{usd:,.2f} USD/h are spent, and {budget.usd_per_h:,.2f} allowed")
    return over


def _unserved(tiers: Sequence[Demand], served: Sequence[float]) -> list[str]:
    return [
        f"{tier.name} gets {made:.6g} requests/s of {tier.least_requests_per_s:.6g} that must be served"
        for tier, made in zip(tiers, served, strict=True)
        if made < tier.least_requests_per_s * (1 - SLACK)
    ]
