"""Which pool serves a request, by the times that it asks for: the grids of Dynamo's global router.

The router divides a range of targets into equal buckets and looks a pool up. Every tier's target lies in the
middle of a bucket that no other target is in, so that rounding cannot put it beside; a bucket without one
belongs to the loosest pool that is fast enough for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

MOST_BUCKETS = 512
"""Of one axis; tiers whose targets are closer than that are not told apart by times."""
US = 1e3
"""Microseconds of a millisecond: targets are compared in whole ones."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a grid: ``buckets`` of equal width from ``low_ms`` to ``high_ms``.

    Attributes:
        targets_ms: What each bucket stands for: the tier's target in it, or its middle.
    """

    low_ms: float
    high_ms: float
    targets_ms: tuple[float, ...]

    @property
    def buckets(self) -> int:
        """How many."""
        return len(self.targets_ms)


def axis(targets_ms: Sequence[float]) -> Axis:
    """The axis on which each of some targets has a bucket of its own; not for ``crowded`` ones."""
    known = sorted(set(map(_us, targets_ms)))
    if len(known) == 1:
        return Axis(known[0] / US / 2, known[0] / US * 1.5, (known[0] / US,))
    gaps = [b - a for a, b in itertools.pairwise(known)]
    step = reduce(math.gcd, gaps)
    if (known[-1] - known[0]) // step >= MOST_BUCKETS:
        step = min(gaps)
    buckets = round((known[-1] - known[0]) / step) + 1
    owned = {(target - known[0] + step // 2) // step: target for target in known}
    middle = tuple(owned.get(k, known[0] + k * step) / US for k in range(buckets))
    low = known[0] - step / 2
    return Axis(low / US, (low + buckets * step) / US, middle)


def crowded(targets_ms: Sequence[float]) -> str:
    """Why some targets cannot each have a bucket; '' if they can."""
    known = sorted(set(map(_us, targets_ms)))
    gap, wide = min((b - a for a, b in itertools.pairwise(known)), default=1), known[-1] - known[0]
    if wide / gap < MOST_BUCKETS - 1:
        return ""
    return (
        f"targets {gap / US:g} ms apart in a range of {wide / US:g} ms are too close for the global router's "
        f"{MOST_BUCKETS} buckets"
    )


def loosest(fast_enough: Callable[[int], bool], speeds: Sequence[tuple[int, ...]]) -> int:
    """The slowest pool that is fast enough, the fastest of all where none is.

    Args:
        fast_enough: Whether a pool is.
        speeds: Of each pool, the times that it promises.
    """
    good = [k for k in range(len(speeds)) if fast_enough(k)]
    return max(good, key=lambda k: speeds[k]) if good else min(range(len(speeds)), key=lambda k: speeds[k])


def row(along: Axis, pools_ms: Sequence[float]) -> list[int]:
    """For each bucket of an axis, the pool, by the one time that each promises."""
    speeds = [(_us(time),) for time in pools_ms]

    def at(target: float) -> int:
        return loosest(lambda k: speeds[k][0] <= _us(target), speeds)

    return [at(target) for target in along.targets_ms]


def _us(time_ms: float) -> int:
    return round(time_ms * US)


def square(ttft: Axis, itl: Axis, pools_ms: Sequence[tuple[float, float]]) -> list[list[int]]:
    """For each bucket of time to first token and between tokens, the pool.

    Args:
        ttft: Time to first token.
        itl: Time between tokens.
        pools_ms: Of each pool, both.
    """
    speeds = [(_us(between), _us(first)) for first, between in pools_ms]

    def at(first: float, between: float) -> int:
        return loosest(lambda k: speeds[k][0] <= _us(between) and speeds[k][1] <= _us(first), speeds)

    return [[at(first, between) for between in itl.targets_ms] for first in ttft.targets_ms]
