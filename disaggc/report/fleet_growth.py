"""What one more machine would bring a fleet: its best plan with it beside the plan without."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from disaggc.plans import FleetPlan
from disaggc.report.console import figure, table, wrapped
from disaggc.report.difference import Change, growth
from disaggc.report.fleet_difference import margin, named_replica, plan_changes


@dataclass(frozen=True, slots=True)
class Growth:
    """One more of a system.

    Attributes:
        before, after: The objective, in ``unit``.
        used: How many of the system the plan with one more uses, of ``available``.
        usd_per_h, power_kw: What the systems used take more than before.
        margin_usd_per_h: What is left of the revenue more than before.
        within: The share of the objective up to which plans count as equal.
        changes: Everything that the two plans say differently.
        replicas: Kinds of replicas of which more or fewer run.
    """

    system: str
    objective: str
    unit: str
    before: float
    after: float
    gained: float
    used: int
    available: int
    usd_per_h: float | None
    power_kw: float
    margin_usd_per_h: float | None
    within: float
    changes: tuple[Change, ...]
    replicas: tuple[Change, ...]


def fleet_growth(before: FleetPlan, after: FleetPlan, system: str) -> Growth:
    """What one more of a system brings.

    Args:
        before: The plan without it.
        after: The best plan with it.
        system: What there is one more of.
    """
    use = next(s for s in after.systems if s.system == system)
    sign = -1 if after.objective == "cost" else 1
    return Growth(
        system=system,
        objective=after.objective,
        unit=after.unit,
        before=before.value,
        after=after.value,
        gained=sign * (_more(before.value, after.value) or 0.0),
        used=use.used,
        available=use.available,
        usd_per_h=_more(before.economics.usd_per_h, after.economics.usd_per_h),
        power_kw=_more(before.economics.power_kw, after.economics.power_kw) or 0.0,
        margin_usd_per_h=_more(margin(before), margin(after)),
        within=max(before.certificate.tolerance, after.certificate.tolerance),
        changes=plan_changes(before, after),
        replicas=tuple(_replicas(before, after)),
    )


EXACT = 1e-6
"""Share below which two figures are one: plan.json keeps nine digits."""


def _more(before: float | None, after: float | None) -> float | None:
    if before is None or after is None:
        return None
    return 0.0 if abs(after - before) <= EXACT * abs(before) else after - before


def _replicas(before: FleetPlan, after: FleetPlan) -> Iterator[Change]:
    """Kinds of replicas whose number changes."""
    known = {r.kind: f"{r.tier}: {named_replica(r)}" for plan in (before, after) for r in plan.replicas}
    for kind, told in known.items():
        old, new = (sum(r.replicas for r in p.replicas if r.kind == kind) for p in (before, after))
        if old != new:
            yield Change(told, str(old), str(new))


def growth_tables(found: Growth) -> Iterator[RenderableType]:
    """The answer in sentences, then everything that changes."""
    yield wrapped(" ".join(growth_sentences(found)))
    for title, rows in (("What changes", found.changes), ("Replicas", found.replicas)):
        if rows:
            yield ""
            cells = [(c.what, c.before or "none", c.after or "none") for c in rows]
            yield table(title, ("", "before", "with one more"), cells, left=3)


def growth_sentences(found: Growth) -> Iterator[str]:
    """Whether it pays, and why."""
    start = f"With one more {found.system} ({found.available} instead of {found.available - 1})"
    if found.gained <= abs(found.before) * found.within:
        yield (
            f"{start}, {found.objective} gains nothing beyond the {found.within:.1%} up to which plans count "
            f"as equal: {figure(found.before)} {found.unit} before, {figure(found.after)} with it."
        )
    else:
        yield (
            f"{start}, {found.objective} goes from {figure(found.before)} to {figure(found.after)} "
            f"{found.unit}{growth(found.before, found.after)}."
        )
    yield _uses(found)
    if found.margin_usd_per_h:
        less = found.margin_usd_per_h < 0
        yield (
            f"What is left of the revenue {'falls' if less else 'grows'} by "
            f"{figure(abs(found.margin_usd_per_h))} USD/h."
        )


def _uses(found: Growth) -> str:
    if found.used < found.available:
        idle = found.available - found.used
        return f"The plan uses {found.used} of them and leaves {idle} idle."
    price = "" if found.usd_per_h is None else f"{figure(found.usd_per_h)} USD/h and "
    return f"All {found.used} are used; the machines in use take {price}{figure(found.power_kw)} kW more."


def growth_data(found: Growth) -> dict[str, Any]:
    """The same for programs."""
    return dataclasses.asdict(found)
