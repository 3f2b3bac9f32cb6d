"""What else there was: frontiers, modes, moves, parts of the fleet, rejections."""

from __future__ import annotations

from disaggc.plans import Plan
from disaggc.report.console import compact
from disaggc.report.html.views import Pareto, Rejection, Series, Table
from disaggc.report.prose import role_name


def pareto(plan: Plan) -> Pareto:
    """The frontier of each mode; the chosen mode first."""
    points: dict[str, list[tuple[float, float, str]]] = {}
    for point in plan.frontier:
        note = f"{point.micro_batches} x {point.batch:,} requests, {compact(point.tokens_per_s)} tokens/s"
        points.setdefault(point.mode, []).append(
            (point.tokens_per_s_per_user, point.tokens_per_s_per_mw, note)
        )
    series = [
        Series(a.mode, tuple(points.get(a.mode, ())), _best(a.tpot_us, a.tokens_per_s_per_mw), a.chosen)
        for a in sorted(plan.alternatives, key=lambda a: not a.chosen)
        if a.feasible
    ]
    return Pareto(tuple(series), plan.goal.tokens_per_s_per_user)


def _best(tpot_us: float | None, per_mw: float | None) -> tuple[float, float] | None:
    return None if not tpot_us or per_mw is None else (1e6 / tpot_us, per_mw)


def modes(plan: Plan) -> Table:
    """Every mode that has a plan, the best first."""
    found = [a for a in plan.alternatives if a.feasible]
    rows = [
        (
            a.mode,
            f"{a.tokens_per_s or 0:,.0f}",
            f"{1e6 / a.tpot_us:,.0f}" if a.tpot_us else "",
            f"{a.tokens_per_s_per_mw:,.0f}" if a.tokens_per_s_per_mw is not None else "",
            f"{a.micro_batches} x {a.batch:,}" if a.batch is not None else "",
            "chosen" if a.chosen else f"{-(a.loss or 0):+.1%}",
            a.reason.removeprefix("limited because "),
        )
        for a in found
    ]
    columns = (
        "mode",
        "tokens/s",
        "tokens/s/user",
        "tokens/s/MW",
        "in flight",
        "against it",
        "what limits it",
    )
    strong = next((k for k, a in enumerate(found) if a.chosen), None)
    return Table(columns, tuple(rows), (1, 2, 3, 4, 5), strong)


def rejections(plan: Plan) -> tuple[Rejection, ...]:
    """Modes without a plan."""
    return tuple(
        Rejection(a.mode, a.reason[:1].upper() + a.reason[1:]) for a in plan.alternatives if not a.feasible
    )


def moves_table(plan: Plan) -> Table:
    """What it would bring to move one role of decode, everything else as planned."""
    rows = [
        (
            role_name(move.role),
            f"{move.source} to {move.target}",
            f"{-move.loss:+.1%}" if move.loss is not None else "no plan",
            move.reason.removeprefix("limited because "),
        )
        for move in plan.moves
        if move.phase == "decode"
    ]
    return Table(("role in decode", "moved from", "tokens/s", "then"), tuple(rows), (2,))


def fleets_table(plan: Plan) -> Table:
    """Parts of the fleet that were searched for the objective."""
    unit = plan.fleets[0].unit if plan.fleets else ""
    rows = [
        (
            option.fleet,
            f"{option.tokens_per_s:,.0f}" if option.tokens_per_s is not None else "no plan",
            f"{option.value:,.4g}" if option.value is not None else "",
        )
        for option in plan.fleets
    ]
    strong = next((k for k, option in enumerate(plan.fleets) if option.chosen), None)
    return Table(("systems", "tokens/s", unit), tuple(rows), (1, 2), strong)
