"""Scales: from numbers to pixels, and the round numbers to mark on an axis."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight or logarithmic axis.

    Attributes:
        low, high: The numbers at its ends; above 0 where it is logarithmic.
        start, end: Their pixels; an axis that goes up has ``start`` below ``end``.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a number; numbers beyond the ends stay at them."""
        inside = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers within the ends, at most ``most`` of them."""
        return log_ticks(self.low, self.high, most) if self.log else ticks(self.low, self.high, most)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from low to high."""
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10, 20) if high - low <= f * power * (most - 1) * (1 + 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten; their multiples by 2 and 5 too, or any round numbers, where those are too few."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = list(range(first, last + 1))
    if len(powers) < 3:
        fine = [f * 10.0**k for k in range(first - 1, last + 1) for f in (1, 2, 5)]
        inside = [value for value in fine if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(inside) < 3:
            return ticks(low, high, most)
        return inside if len(inside) <= most else [10.0**k for k in powers]
    stride = math.ceil(len(powers) / most)
    return [10.0**k for k in powers[::stride]]


def around(values: list[float], log: bool = False, margin: float = 0.06) -> tuple[float, float]:
    """Ends for an axis with some air around the values; from 0 where it is straight and all are above."""
    low, high = min(values), max(values)
    if log:
        spread = max(math.log(high / low), math.log(2.0)) * margin
        return low / math.exp(spread), high * math.exp(spread)
    return 0.0, high * (1 + margin) or 1.0
