"""Multiply-adds counted one by one, by numbers that count how often they are multiplied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Objects = npt.NDArray[np.object_]


class Number:
    """A number without a value."""

    products = 0

    def __mul__(self, other: Number) -> Number:
        Number.products += 1
        return self

    def __add__(self, other: Number) -> Number:
        return self


def array(*shape: int) -> Objects:
    """An array of such numbers."""
    filled: Objects = np.empty(shape, dtype=object)
    filled.fill(Number())
    return filled


def multiply_adds(compute: Callable[[], object]) -> int:
    """How many products ``compute`` takes."""
    Number.products = 0
    compute()
    return Number.products
