"""Price, revenue and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from disaggc.plans import Plan
from disaggc.report.console import dollars
from disaggc.report.economics import Economics, Hourly, economics
from disaggc.report.html.tables import Machine
from disaggc.report.html.views import Fact


def prices(machines: Mapping[str, Machine]) -> dict[str, Hourly]:
    """What one system of each kind costs an hour, where somebody says."""
    found = {name: m.figures["usd_per_h"] for name, m in machines.items() if "usd_per_h" in m.figures}
    return {name: Hourly(row.si, row.low_si, row.high_si) for name, row in found.items()}


def device_counts(machines: Mapping[str, Machine]) -> dict[str, int]:
    """Devices of one system of each kind."""
    return {name: int(m.figures["count"].value) for name, m in machines.items()}


def money(plan: Plan, machines: Mapping[str, Machine]) -> tuple[Fact, ...]:
    """Price, revenue, cost and margin of the plan at full load."""
    return tuple(_facts(plan, economics(plan, prices(machines), device_counts(machines))))


def _facts(plan: Plan, e: Economics) -> Iterator[Fact]:
    if plan.goal.price_usd_per_mtok is not None:
        yield Fact(
            "a million output tokens sell for", dollars(plan.goal.price_usd_per_mtok), "the tier's price"
        )
    if e.cost_per_mtok is not None:
        ends = f"{dollars(e.cost_per_mtok.low)} to {dollars(e.cost_per_mtok.high)}"
        yield Fact(
            "a million output tokens cost",
            dollars(e.cost_per_mtok.usd),
            f"{ends} over the machines' price interval",
        )
    if e.revenue_per_h is not None:
        yield Fact("revenue an hour", dollars(e.revenue_per_h), "of output tokens, every slot taken")
    if e.cost_per_h is not None:
        ends = f"{dollars(e.cost_per_h.low)} to {dollars(e.cost_per_h.high)}"
        yield Fact("machines an hour", dollars(e.cost_per_h.usd), f"{ends}; of the systems used")
    else:
        yield Fact("machines an hour", "unknown", "no price an hour is declared for one of them")
    if e.margin_per_h is not None:
        yield Fact("margin an hour", dollars(e.margin_per_h), "revenue less machines")
    if e.megawatts is not None:
        yield Fact("power", f"{e.megawatts * 1e3:,.0f} kW", "of the systems used")
