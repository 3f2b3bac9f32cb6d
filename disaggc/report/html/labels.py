"""Puts names beside points so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from disaggc.report.html.svg import text_width

HEIGHT = 13.0
GAP = 8.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        """Whether it lies within the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True, slots=True)
class Label:
    """A name on its baseline, at ``x`` by its left end."""

    words: str
    x: float
    y: float


def place(
    wanted: Sequence[tuple[float, float, str]], field: Box, taken: Sequence[Box] = (), size: float = 11.0
) -> list[Label]:
    """A label for each point that has room for one, earlier points first.

    Args:
        wanted: Points with their names; points themselves are never covered.
        field: Where labels may be.
        taken: What else must stay free.
        size: Font size.
    """
    marks = [Box(x - 5, y - 5, x + 5, y + 5) for x, y, _ in wanted]
    occupied = [*taken, *marks]
    found = []
    for x, y, words in wanted:
        for box in _around(x, y, text_width(words, size)):
            if box.inside(field) and not any(box.meets(other) for other in occupied):
                occupied.append(box)
                found.append(Label(words, box.left, box.bottom - 3))
                break
    return found


def _around(x: float, y: float, width: float) -> list[Box]:
    """Boxes right, left, above and below of a point, then at its corners."""
    half = HEIGHT / 2
    corners = [
        (x + GAP, y - half),
        (x - GAP - width, y - half),
        (x - width / 2, y - GAP - HEIGHT),
        (x - width / 2, y + GAP),
        (x + GAP - 2, y - HEIGHT - 3),
        (x + GAP - 2, y + 3),
        (x - GAP + 2 - width, y - HEIGHT - 3),
        (x - GAP + 2 - width, y + 3),
    ]
    return [Box(left, top, left + width, top + HEIGHT) for left, top in corners]
