"""An assignment problem: items to places, under linear rows, minimising the largest of some of them.

    minimise  T
    subject   T >= row(assignment)            for every soft row
              row(assignment) <= limit        for every hard row
              T <= limit

A row sums integer coefficients over what an assignment implies: items *at* places, flows that *cross*
from one place to another (their item is at p, one of their readers at q), and groups that are
*resident* at a place (some item of the group is there). Nothing here knows of models or machines, so
a small instance can be enumerated, and an external one read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Assignment = tuple[int, ...]
"""The place of each item."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What item ``source`` sends to items ``readers``; sent once to each other place."""

    source: int
    readers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A linear expression with non-negative integer coefficients.

    Attributes:
        at: (item, place) to coefficient.
        cross: (flow, from place, to place) to coefficient.
        resident: (group, place) to coefficient.
        constant: Added always.
        limit: The most it may be, for a hard row; None makes it a soft row.
    """

    name: str
    at: Mapping[tuple[int, int], int] = field(default_factory=dict)
    cross: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    resident: Mapping[tuple[int, int], int] = field(default_factory=dict)
    constant: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Items, where each may go, and the rows.

    Attributes:
        places: How many places there are.
        allowed: For each item, the places it may go to.
        flows: What crosses.
        groups: Items that share what is resident.
        rows: Soft rows bound T from below; hard rows have limits.
        limit: The most T may be; None for no limit.
        tie_breaks: Names of rows that decide, in order, among assignments of equal T.
    """

    places: int
    allowed: tuple[tuple[int, ...], ...]
    flows: tuple[Flow, ...]
    groups: tuple[tuple[int, ...], ...]
    rows: tuple[Row, ...]
    limit: int | None = None
    tie_breaks: tuple[str, ...] = ()
