"""The best plans of a sweep, a row a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from disaggc.placement.decide import tpot_seconds
from disaggc.placement.fleet.decide import FleetDecision
from disaggc.placement.objective import megawatts
from disaggc.report.console import figure, table

if TYPE_CHECKING:  # the report prints what the compiler returns, and needs none of it
    from disaggc.compiler import Compared


def comparison(name: str, found: Sequence[Compared]) -> Iterator[RenderableType]:
    """A table, and why a value has no plan."""
    shared = any(isinstance(getattr(one.best, "decision", None), FleetDecision) for one in found)
    columns = (name, *(FLEET_COLUMNS if shared else COLUMNS))
    rows = comparison_data(name, found)["rows"]
    yield table("Compared", columns, [_cells(row, len(columns)) for row in rows], left=2)
    for one in found:
        if one.best is None:
            yield Text(f"{name} = {one.value:g}: {one.reason}")


COLUMNS = ("best plan", "tokens/s", "tokens/s/user", "tokens/s/MW")
FLEET_COLUMNS = (
    "used",
    "objective",
    "tokens/s",
    "tokens/s/MW",
    "earns USD/h",
    "takes USD/h",
    "requests/s by tier",
)


def _cells(row: dict[str, Any], width: int) -> tuple[str, ...]:
    value = f"{row['value']:g}"
    if row.get("mode") is None and row.get("systems") is None:
        return (value, "no plan", *([""] * (width - 2)))
    if "systems" in row:
        served = ", ".join(figure(rate) for rate in row["requests_per_s"].values())
        used = " + ".join(f"{n} {system}" for system, n in row["systems"].items())
        money = (figure(row["revenue_usd_per_h"]), figure(row["usd_per_h"]))
        rates = (f"{row['tokens_per_s']:,.0f}", f"{row['tokens_per_s_per_mw']:,.0f}")
        return (value, used, f"{figure(row['objective'])} {row['unit']}", *rates, *money, served)
    figures = (row["tokens_per_s"], row["tokens_per_s_per_user"], row["tokens_per_s_per_mw"])
    return (value, row["mode"], *(f"{one:,.0f}" for one in figures))


def comparison_data(name: str, found: Sequence[Compared]) -> dict[str, Any]:
    """The same for programs."""
    return {"input": name, "rows": [_row(one) for one in found]}


def _row(one: Compared) -> dict[str, Any]:
    if one.best is None:
        return {"value": one.value, "mode": None, "reason": one.reason}
    if isinstance(one.best.decision, FleetDecision):
        return {"value": one.value, **_fleet_row(one.best.decision)}
    answer = one.best.decision.answer
    groups = answer.configuration.pricing.groups
    used = tuple((groups[p].system, groups[p].count) for p in sorted(set(answer.assignment)))
    return {
        "value": one.value,
        "mode": one.best.decision.mode,
        "tokens_per_s": answer.tokens_per_s,
        "tokens_per_s_per_user": 1 / tpot_seconds(answer),
        "tokens_per_s_per_mw": answer.tokens_per_s / megawatts(used),
        "batch": answer.configuration.batch,
        "micro_batches": answer.configuration.micro_batches,
    }


def _fleet_row(decision: FleetDecision) -> dict[str, Any]:
    tiers, served = decision.wanted.tiers, decision.choice.audit.served
    chosen = zip(decision.wanted.fleet, decision.choice.mix.systems, strict=True)
    used = [(system, n) for (system, _), n in chosen if n]
    prices = [None if s.usd_per_h is None else s.usd_per_h.si * n for s, n in used]
    tokens = sum(rate * t.tokens_per_request for rate, t in zip(served, tiers, strict=True))
    return {
        "systems": {system.name: n for system, n in used},
        "goal": decision.objective.name,
        "objective": decision.choice.value,
        "unit": decision.objective.unit,
        "tokens_per_s": tokens,
        "tokens_per_s_per_mw": tokens / megawatts(tuple(used)),
        "revenue_usd_per_h": sum(r * t.usd_per_request * 3600 for r, t in zip(served, tiers, strict=True)),
        "usd_per_h": None if None in prices else sum(p for p in prices if p is not None),
        "requests_per_s": {t.name: rate for t, rate in zip(tiers, served, strict=True)},
    }
