"""Draws a pool: its devices as cells, and one device's memory as a bar."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from disaggc.report.console import amount
from disaggc.report.html.svg import picture, rect
from disaggc.report.html.views import MemoryPart, Share

MOST_CELLS = 144
"""Cells of a drawing of devices; where there are more devices, a cell stands for several."""
CELL, GAP = 9.0, 2.0
COLUMNS = 36
BAR_WIDTH, BAR_HEIGHT = 320.0, 18.0
HAIR = 1.5


def cells(devices: int, available: int) -> tuple[int, int, int]:
    """How many cells are drawn, how many of them are filled, and how many devices one stands for."""
    each = max(1, math.ceil(available / MOST_CELLS))
    return math.ceil(available / each), math.ceil(min(devices, available) / each), each


def device_cells(devices: int, available: int, device: str) -> Markup:
    """A cell for each device (or few), filled where it is used."""
    count, used, each = cells(devices, available)
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    drawn = []
    for k in range(count):
        row, column = divmod(k, columns)
        kind = "cell used" if k < used else "cell"
        drawn.append(rect(column * (CELL + GAP), row * (CELL + GAP), CELL, CELL, kind, radius=1.5))
    label = f"{devices:,} of {available:,} {device} used" + (
        f"; a cell is {each} devices" if each > 1 else ""
    )
    return picture(columns * (CELL + GAP) - GAP, rows * (CELL + GAP) - GAP, label, drawn, "cells")


def shared_cells(shares: Sequence[Share], devices: int, system: str) -> Markup:
    """A cell for each device (or few) of a kind of machine, in the colour of whom it serves."""
    count, _, each = cells(devices, devices)
    drawn = []
    for k in range(count):
        row, column = divmod(k, COLUMNS)
        share = _at(shares, k * each)
        kind, tip = ("cell", "") if share is None else (f"cell t{share.series % 6}", share.tip)
        drawn.append(rect(column * (CELL + GAP), row * (CELL + GAP), CELL, CELL, kind, tip, radius=1.5))
    rows = math.ceil(count / COLUMNS)
    told = "; ".join(share.tip for share in shares)
    label = f"{devices:,} devices of {system}: {told or 'none set aside'}"
    return picture(min(count, COLUMNS) * (CELL + GAP), rows * (CELL + GAP), label, drawn, "cells")


def _at(shares: Sequence[Share], device: int) -> Share | None:
    """Whose the nth device is; None for one that nobody has."""
    for share in shares:
        if device < share.devices:
            return share
        device -= share.devices
    return None


def memory_bar(parts: Sequence[MemoryPart], capacity: float) -> Markup:
    """One device's memory from left to right: what fills it, and what stays free.

    A part that is there at all gets a hair's breadth, so that it is seen.
    """
    drawn = [rect(0, 0, BAR_WIDTH, BAR_HEIGHT, "mem free", radius=3)]
    x = 0.0
    for part in parts:
        if part.bytes <= 0:
            continue
        width = min(max(HAIR, part.bytes / capacity * BAR_WIDTH), BAR_WIDTH - x)
        tip = f"{part.kind}: {amount(part.bytes, 'B')} of {amount(capacity, 'B')}"
        drawn.append(rect(x, 0, width, BAR_HEIGHT, f"mem {part.kind}", tip))
        x += width
    told = ", ".join(f"{part.kind} {amount(part.bytes, 'B')}" for part in parts)
    return picture(
        BAR_WIDTH, BAR_HEIGHT, f"of {amount(capacity, 'B')}: {told}", drawn, "membar", stretches=True
    )
