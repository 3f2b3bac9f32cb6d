"""Draws speed against efficiency: a line for each mode, its best plan, and the chosen one."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from disaggc.report.console import amount
from disaggc.report.html.scales import Scale, around
from disaggc.report.html.svg import dot, line, picture, polyline, text, text_width
from disaggc.report.html.views import Pareto, Series

LEFT, RIGHT, TOP, BOTTOM = 56.0, 14.0, 24.0, 44.0


def draw(view: Pareto, width: float) -> Markup:
    """The drawing; rings are the best plan of a mode at the tier's speed, the large one the chosen plan."""
    height = max(270.0, min(380.0, width * 0.55))
    x, y = _scales(view, width, height)
    ordered = sorted(enumerate(view.series), key=lambda one: one[1].chosen)
    drawn = [*_axes(x, y), *_asked(view, x, y)]
    for k, series in ordered:
        drawn += _series(series, k, x, y)
    return picture(width, height, "Tokens/s/user against tokens/s/MW for each mode", drawn, "chart")


def _scales(view: Pareto, width: float, height: float) -> tuple[Scale, Scale]:
    points = [(px, py) for one in view.series for px, py, _ in one.points]
    points += [one.best for one in view.series if one.best is not None]
    low, high = around([*(px for px, _ in points), view.asked], log=True)
    bottom, top = around([py for _, py in points] or [1.0])
    return (
        Scale(low, high, LEFT, width - RIGHT, log=True),
        Scale(bottom, top, height - BOTTOM, TOP),
    )


def _axes(x: Scale, y: Scale) -> Iterator[Markup]:
    for value in y.ticks(6):
        at = y.at(value)
        yield line(x.start, at, x.end, at, "grid")
        yield text(x.start - 8, at + 4, amount(value, "").strip(), "tick", "end")
    for value in x.ticks(5 if x.end - x.start < 500 else 8):
        at = x.at(value)
        yield line(at, y.start, at, y.start + 4, "axis")
        yield text(at, y.start + 17, f"{value:,.15g}", "tick", "middle")
    yield line(x.start, y.start, x.end, y.start, "axis")
    yield text(x.end, y.start + 36, "tokens/s/user", "axis-name", "end")
    yield text(4, 12, "tokens/s/MW", "axis-name")


def _asked(view: Pareto, x: Scale, y: Scale) -> Iterator[Markup]:
    at = x.at(view.asked)
    told = f"tier asks {view.asked:,.4g}"
    left = at + 6 + text_width(told, 11) > x.end
    yield line(at, y.start, at, y.end, "asked")
    yield text(at - 6 if left else at + 6, y.end + 4, told, "asked-name", "end" if left else "start")


def _series(series: Series, k: int, x: Scale, y: Scale) -> Iterator[Markup]:
    kind = f"s{k % 6}" + (" chosen" if series.chosen else "")
    places = [(x.at(px), y.at(py)) for px, py, _ in series.points]
    if len(places) > 1:
        yield polyline(places, f"series {kind}")
    for (px, py), (_, _, note) in zip(places, series.points, strict=True):
        yield dot(px, py, 2.6, f"spot {kind}", f"{series.name}: {note}")
    if series.best is not None:
        best = x.at(series.best[0]), y.at(series.best[1])
        tip = f"{series.name}: best plan for the tier"
        yield dot(*best, 7.0 if series.chosen else 5.0, f"best {kind}", tip)
