"""The best plans of a sweep, a row a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from disaggc.placement.decide import tpot_seconds
from disaggc.placement.objective import megawatts
from disaggc.report.console import table

if TYPE_CHECKING:  # the report prints what the compiler returns, and needs none of it
    from disaggc.compiler import Compared


def comparison(name: str, found: Sequence[Compared]) -> Iterator[RenderableType]:
    """A table, and why a value has no plan."""
    rows = []
    for row in comparison_data(name, found)["rows"]:
        if row["mode"] is None:
            rows.append((f"{row['value']:g}", "no plan", "", "", ""))
            continue
        figures = (row["tokens_per_s"], row["tokens_per_s_per_user"], row["tokens_per_s_per_mw"])
        rows.append((f"{row['value']:g}", row["mode"], *(f"{figure:,.0f}" for figure in figures)))
    columns = (name, "best plan", "tokens/s", "tokens/s/user", "tokens/s/MW")
    yield table("Compared", columns, rows, left=2)
    for one in found:
        if one.best is None:
            yield Text(f"{name} = {one.value:g}: {one.reason}")


def comparison_data(name: str, found: Sequence[Compared]) -> dict[str, Any]:
    """The same for programs."""
    return {"input": name, "rows": [_row(one) for one in found]}


def _row(one: Compared) -> dict[str, Any]:
    if one.best is None:
        return {"value": one.value, "mode": None, "reason": one.reason}
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
