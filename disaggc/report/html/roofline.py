"""Draws the roofline of one device: roofs, ridge points, every role, and every kind of op."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from disaggc.report.console import amount, duration, figure
from disaggc.report.html.labels import Box, place
from disaggc.report.html.scales import Scale, around
from disaggc.report.html.svg import diamond, dot, line, picture, polyline, text, text_width
from disaggc.report.html.views import ROLE_GROUPS, OpClass, RolePoint, Roofline

LEFT, RIGHT, TOP, BOTTOM = 62.0, 22.0, 22.0, 44.0
TICK = 5.0
STEPS = 40


def draw(view: Roofline, width: float) -> Markup:
    """The drawing; a disc is a role in decode, a diamond one in prefill, a tick on the roof a kind of op."""
    height = max(290.0, min(340.0, width * 0.7))
    x, y = _scales(view, width, height)
    drawn = [
        *_axes(x, y),
        *_roofs(view, x, y),
        *_ops(view, x, y),
        *(_mark(point, x, y) for point in view.points),
        *_names(view, x, y),
    ]
    label = f"Roofline of {view.device}: {len(view.points)} roles, {len(view.ops)} kinds of ops"
    return picture(width, height, label, drawn, "chart")


def attainable(view: Roofline, intensity: float) -> float:
    """FLOP/s under the highest roof at an intensity."""
    return min(intensity * view.bytes_per_s, _highest(view))


def ridge(view: Roofline, flops_per_s: float) -> float:
    """The intensity from which a roof is reached, flop/B."""
    return flops_per_s / view.bytes_per_s


def _highest(view: Roofline) -> float:
    return max(roof.flops_per_s for roof in view.roofs)


def _scales(view: Roofline, width: float, height: float) -> tuple[Scale, Scale]:
    ridges = [ridge(view, roof.flops_per_s) for roof in view.roofs]
    found = [op.intensity for op in view.ops if op.intensity] + [p.intensity for p in view.points]
    low, high = around([*found, *ridges, max(ridges) * 8, min(ridges) / 8], log=True)
    rates = [p.flops_per_s for p in view.points]
    floor = min([*rates, attainable(view, low)])
    bottom, top = around([floor, _highest(view) * 2], log=True)
    return (
        Scale(low, high, LEFT, width - RIGHT, log=True),
        Scale(bottom, top, height - BOTTOM, TOP, log=True),
    )


def _axes(x: Scale, y: Scale) -> Iterator[Markup]:
    for value in x.ticks(5 if x.end - x.start < 500 else 8):
        at = x.at(value)
        yield line(at, y.start, at, y.end, "grid")
        yield text(at, y.start + 16, f"{value:,.15g}", "tick", "middle")
    for value in y.ticks(6):
        at = y.at(value)
        yield line(x.start, at, x.end, at, "grid")
        yield text(x.start - 8, at + 4, amount(value, "F"), "tick", "end")
    yield line(x.start, y.start, x.end, y.start, "axis")
    yield text(x.end, y.start + 34, "flop per byte of memory traffic", "axis-name", "end")
    yield text(4, 12, "FLOP/s of one device", "axis-name")


def _roofs(view: Roofline, x: Scale, y: Scale) -> Iterator[Markup]:
    top = _highest(view)
    corner = ridge(view, top)
    start = max(x.low, y.low / view.bytes_per_s)
    slope = [(x.at(start), y.at(start * view.bytes_per_s)), (x.at(corner), y.at(top))]
    yield polyline([*slope, (x.end, y.at(top))], "roof")
    for roof in view.roofs:
        at, level = x.at(ridge(view, roof.flops_per_s)), y.at(roof.flops_per_s)
        if roof.flops_per_s < top:
            yield line(at, level, x.end, level, "roof lower")
        told = f"{roof.arithmetic} {amount(roof.flops_per_s, 'FLOP/s')}"
        above = 20 if text_width(told, 11) > x.end - x.at(corner) else 6
        yield text(x.end, level - above, told, "roof-name", "end")
        yield line(at, level, at, y.start, "ridge")
    yield dot(x.at(corner), y.at(top), 3.0, "ridge-dot", f"ridge point: {figure(corner)} flop/B")
    yield text(x.at(corner) - 4, y.at(top) - 6, f"ridge {figure(corner)}", "ridge-name", "end")


def _ops(view: Roofline, x: Scale, y: Scale) -> Iterator[Markup]:
    for op in view.ops:
        if op.intensity:
            at, level = x.at(op.intensity), y.at(attainable(view, op.intensity))
            yield line(at, level - TICK, at, level + TICK, f"op {_group(op.role)}", _op_tip(op))


def _op_tip(op: OpClass) -> str:
    return (
        f"{op.op} ({op.role}, {op.phase}), {op.count:,} of them: {figure(op.intensity or 0.0)} flop/B, "
        f"{amount(op.flops, 'F')}, {amount(op.bytes, 'B')}"
    )


def _mark(point: RolePoint, x: Scale, y: Scale) -> Markup:
    draw_as, radius = (dot, 5.0) if point.phase == "decode" else (diamond, 6.0)
    tip = (
        f"{point.role}, {point.phase}: {figure(point.intensity)} flop/B, "
        f"{amount(point.flops_per_s, 'FLOP/s')} a device, bound by {point.bound_by}, "
        f"{duration(point.time_us)}"
    )
    kind = f"mark {point.phase} {_group(point.role)}"
    return draw_as(x.at(point.intensity), y.at(point.flops_per_s), radius, kind, tip)


def _names(view: Roofline, x: Scale, y: Scale) -> Iterator[Markup]:
    """Roles by name where there is room."""
    wanted = [(x.at(p.intensity), y.at(p.flops_per_s), _short(p)) for p in view.points]
    field = Box(x.start + 2, y.end, x.end, y.start - 2)
    names = [
        Box(x.end - 130, y.at(roof.flops_per_s) - 18, x.end, y.at(roof.flops_per_s)) for roof in view.roofs
    ]
    for label in place(wanted, field, [*names, *_lines(view, x, y)]):
        yield text(label.x, label.y, label.words, "point-name")


def _lines(view: Roofline, x: Scale, y: Scale) -> Iterator[Box]:
    """Small boxes along the roof, so that names stay off it."""
    top = _highest(view)
    for k in range(STEPS + 1):
        at = x.low * (x.high / x.low) ** (k / STEPS)
        px, py = x.at(at), y.at(min(at * view.bytes_per_s, top))
        yield Box(px - 4, py - 6, px + 4, py + 6)


def _short(point: RolePoint) -> str:
    return point.role.replace("_", " ")


def _group(role: str) -> str:
    return "g-" + ROLE_GROUPS.get(role, "other")
