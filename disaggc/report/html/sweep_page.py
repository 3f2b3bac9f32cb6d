"""The page of a sweep: what one input of a job does to the best plan."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from disaggc.report.console import figure
from disaggc.report.html import lines
from disaggc.report.html import page as pages
from disaggc.report.html.page import Section, both, page, render
from disaggc.report.html.views import Lines, Stat, Table, Verdict

Row = Mapping[str, Any]
LEAD = "The best plan for each value; everything else of the job stays as it is."
ALONE = (("tokens/s", "tokens_per_s"), ("tokens/s/user", "tokens_per_s_per_user"))
PER_MW = ("tokens/s/MW", "tokens_per_s_per_mw")


def sweep_page(name: str, rows: Sequence[Row], made_by: str) -> str:
    """The page of ``comparison_data(...)['rows']``.

    Args:
        name: The input that varies.
        rows: One a value.
        made_by: Who wrote the page.
    """
    planned = [row for row in rows if "tokens_per_s" in row]
    return page(_head(name, rows, planned), list(_sections(name, rows, planned)), made_by)


def _head(name: str, rows: Sequence[Row], planned: Sequence[Row]) -> Verdict:
    values = ", ".join(f"{row['value']:g}" for row in rows)
    stats = [Stat("values", f"{len(rows)}", values)]
    if not planned:
        return Verdict("Sweep", name, "No value has a plan.", tuple(stats))
    goal = planned[0].get("goal")
    best = _best(planned)
    where = f"{name} = {best['value']:g}"
    if goal is None:
        stats.append(Stat("most tokens/s", f"{best['tokens_per_s']:,.0f}", where))
        return Verdict("Sweep", name, f"Most tokens a second at {where}.", tuple(stats))
    value = f"{figure(best['objective'])} {best['unit']}"
    stats.append(Stat(f"best {goal.replace('_', ' ')}", value, where))
    return Verdict("Sweep", name, f"The best {goal.replace('_', ' ')}, {value}, is at {where}.", tuple(stats))


def _best(planned: Sequence[Row]) -> Row:
    """The row that is best at the job's objective; the first of equals."""
    if planned[0].get("goal") == "cost":
        return min(planned, key=lambda row: row["objective"])
    return max(planned, key=lambda row: row.get("objective", row["tokens_per_s"]))


def _sections(name: str, rows: Sequence[Row], planned: Sequence[Row]) -> Iterator[Section]:
    yield pages.table_section("values", "Best plans", LEAD, _table(name, rows))
    for k, view in enumerate(_charts(name, planned)):
        body = render("lines.html.j2", view=view, chart=both(functools.partial(lines.draw, view)))
        yield Section(f"chart-{k}", view.unit, f"Against {name}.", body)


def _charts(name: str, planned: Sequence[Row]) -> Iterator[Lines]:
    if not any("systems" in row for row in planned):
        for unit, key in (*ALONE, PER_MW):
            yield Lines(name, unit, (("best plan", _points(planned, key)),))
        return
    money = (("earned", "revenue_usd_per_h"), ("machines", "usd_per_h"))
    yield Lines(name, "USD an hour", tuple((told, _points(planned, key)) for told, key in money))
    tiers = dict.fromkeys(tier for row in planned for tier in row["requests_per_s"])
    served = (
        (tier, tuple((float(row["value"]), float(row["requests_per_s"][tier])) for row in planned))
        for tier in tiers
    )
    yield Lines(name, "requests/s served", tuple(served))
    yield Lines(name, PER_MW[0], (("whole fleet", _points(planned, PER_MW[1])),))


def _points(planned: Sequence[Row], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(row["value"]), float(row[key])) for row in planned if row.get(key) is not None)


def _table(name: str, rows: Sequence[Row]) -> Table:
    columns: tuple[str, ...] = (name, "best plan", "tokens/s", "tokens/s/MW")
    if any("systems" in row for row in rows):
        columns = (name, "used", "objective", "tokens/s", "tokens/s/MW", "earns USD/h", "takes USD/h")
    cells = tuple((*_cells(row), *[""] * len(columns))[: len(columns)] for row in rows)
    return Table(columns, cells, (0, *range(2, len(columns))))


def _cells(row: Row) -> tuple[str, ...]:
    value = f"{row['value']:g}"
    if "tokens_per_s" not in row:
        return value, f"no plan: {row['reason']}"
    rates = (f"{row['tokens_per_s']:,.0f}", f"{row['tokens_per_s_per_mw']:,.0f}")
    if "systems" not in row:
        return value, str(row["mode"]), *rates
    used = " + ".join(f"{n} {system}" for system, n in row["systems"].items())
    money = (figure(row["revenue_usd_per_h"]), figure(row["usd_per_h"]))
    return value, used, f"{figure(row['objective'])} {row['unit']}", *rates, *money
