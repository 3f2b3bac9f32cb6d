"""Requests that have not begun, and whose turn is next.

Those of one tier begin in the order in which they came. Tiers share executors by start-time fair
queueing (Goyal, Vin and Cheng, SIGCOMM 1996): while several wait, each gets tokens in proportion to
its weight, and none waits for ever behind another.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from disaggc.runtime.requests import Live


class _Place(NamedTuple):
    """A request's place: when it would start if tiers took turns token by token, and when it came."""

    start: float
    number: int
    live: Live


class Waiting:
    """Requests that wait; who was thrown back after a fault comes before all others."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        """Begin empty.

        Args:
            weights: Tier to its share; 1 where nothing is said.
        """
        self._weights = dict(weights or {})
        self._again: deque[Live] = deque()
        self._queues: dict[str, deque[_Place]] = {}
        self._ends: dict[str, float] = {}
        self._clock = 0.0
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._again) or any(self._queues.values())

    def add(self, lives: Iterable[Live]) -> None:
        """Take in new ones, in order of arrival."""
        for live in lives:
            tier = live.request.tier
            start = max(self._clock, self._ends.get(tier, 0.0))
            self._ends[tier] = start + live.request.context / self._weights.get(tier, 1.0)
            place = _Place(start, next(self._numbers), live)
            self._queues.setdefault(tier, deque()).append(place)

    def put_back(self, lives: Iterable[Live]) -> None:
        """Let requests that had begun begin again, before those that have not."""
        again = sorted((live for live in lives if not live.is_done), key=lambda live: live.index)
        self._again.extendleft(reversed(again))

    def head(self) -> Live | None:
        """Whose turn is next."""
        if self._again:
            return self._again[0]
        place = self._first()
        return place.live if place else None

    def pop(self) -> Live:
        """The same, which waits no longer."""
        if self._again:
            return self._again.popleft()
        place = self._first()
        assert place is not None
        self._queues[place.live.request.tier].popleft()
        self._clock = place.start
        return place.live

    def drop_done(self) -> None:
        """Forget those that nobody wants any more."""
        self._again = deque(live for live in self._again if not live.is_done)
        for tier, queue in self._queues.items():
            self._queues[tier] = deque(place for place in queue if not place.live.is_done)

    def _first(self) -> _Place | None:
        heads = (queue[0] for queue in self._queues.values() if queue)
        return min(heads, key=lambda place: (place.start, place.number), default=None)
