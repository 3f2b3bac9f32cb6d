"""Draws figures against one input: a line each, a dot a value."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from disaggc.report.console import amount
from disaggc.report.html.scales import Scale, around
from disaggc.report.html.svg import dot, line, picture, polyline, text
from disaggc.report.html.views import Lines

LEFT, RIGHT, TOP, BOTTOM = 56.0, 18.0, 26.0, 44.0


def draw(view: Lines, width: float) -> Markup:
    """The drawing; a value without a plan has no dot, and the line goes on behind it."""
    height = max(220.0, min(300.0, width * 0.4))
    x, y = _scales(view, width, height)
    drawn = list(_axes(view, x, y))
    for k, (name, points) in enumerate(view.series):
        places = [(x.at(px), y.at(py)) for px, py in points]
        if len(places) > 1:
            drawn.append(polyline(places, f"series s{k % 6}"))
        for (px, py), (at, up) in zip(points, places, strict=True):
            tip = f"{view.input} = {px:g}: {amount(py, '').strip()} {view.unit} ({name})"
            drawn.append(dot(at, up, 4.0, f"spot s{k % 6}", tip))
    return picture(width, height, f"{view.unit} against {view.input}", drawn, "chart")


def _scales(view: Lines, width: float, height: float) -> tuple[Scale, Scale]:
    points = [point for _, one in view.series for point in one]
    low, high = around([px for px, _ in points] or [0.0])
    bottom, top = around([0.0, *(py for _, py in points)])
    return Scale(low, high, LEFT, width - RIGHT), Scale(bottom, top, height - BOTTOM, TOP)


def _axes(view: Lines, x: Scale, y: Scale) -> Iterator[Markup]:
    for value in y.ticks(5):
        at = y.at(value)
        yield line(x.start, at, x.end, at, "grid")
        yield text(x.start - 8, at + 4, amount(value, "").strip(), "tick", "end")
    for value in sorted({px for _, points in view.series for px, _ in points}):
        at = x.at(value)
        yield line(at, y.start, at, y.start + 4, "axis")
        yield text(at, y.start + 17, f"{value:g}", "tick", "middle")
    yield line(x.start, y.start, x.end, y.start, "axis")
    yield text(x.end, y.start + 36, view.input, "axis-name", "end")
    yield text(4, 12, view.unit, "axis-name")
