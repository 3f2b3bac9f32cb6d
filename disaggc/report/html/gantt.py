"""Draws a timeline: a band for each pool, divided among its pipeline ranks, and one for each link."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from disaggc.report.html.scales import Scale
from disaggc.report.html.svg import line, picture, rect, text
from disaggc.report.html.views import Bar, Timeline

POOL_HEIGHT, LINK_HEIGHT, TITLE, SPACE, AXIS = 40.0, 12.0, 20.0, 10.0, 30.0
MARGIN = 4.0


def draw(view: Timeline, width: float) -> Markup:
    """The drawing."""
    x = Scale(0.0, view.span_us, MARGIN, width - MARGIN)
    tops = _tops(view)
    bottom = tops[-1]
    drawn = [*_axis(x, bottom)]
    for lane, top in zip(view.lanes, tops, strict=False):
        drawn.append(text(MARGIN, top - 6, lane.name, "lane-name"))
        drawn.append(text(width - MARGIN, top - 6, lane.note, "lane-note", "end"))
        drawn.append(rect(x.start, top, x.end - x.start, _height(lane.is_link), "lane"))
    drawn += [_bar(view, bar, tops[bar.lane], x) for bar in view.bars]
    return picture(width, bottom + AXIS, view.title, drawn, "chart gantt")


def _tops(view: Timeline) -> list[float]:
    """Where each lane begins, and where the axis is."""
    tops, y = [], 0.0
    for lane in view.lanes:
        tops.append(y + TITLE)
        y += TITLE + _height(lane.is_link) + SPACE
    return [*tops, y]


def _height(is_link: bool) -> float:
    return LINK_HEIGHT if is_link else POOL_HEIGHT


def _bar(view: Timeline, bar: Bar, top: float, x: Scale) -> Markup:
    lane = view.lanes[bar.lane]
    height = _height(lane.is_link) / lane.ranks
    start, end = x.at(bar.start), x.at(bar.end)
    kind = f"bar {'link' if lane.is_link else bar.group} b{bar.batch % 4}"
    return rect(start, top + bar.rank * height, max(0.6, end - start), height, kind, bar.tip)


def _axis(x: Scale, y: float) -> Iterator[Markup]:
    for value in x.ticks(5 if x.end - x.start < 500 else 9):
        at = x.at(value)
        anchor = "start" if at < 20 else "end" if at > x.end - 20 else "middle"
        yield line(at, TITLE, at, y, "grid")
        yield text(at, y + 14, f"{value:,.10g}", "tick", anchor)
    yield text(x.end, y + 28, "us", "axis-name", "end")
