"""Flops counted one by one, by numbers and arrays that count what is done with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

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

    def __radd__(self, zero: int) -> Number:
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


class Tally(npt.NDArray[np.float64]):
    """An array that counts, by name of the numpy function, the elements that are worked out from it.

    Products of matrices are counted by the numbers above: they go through the same loops.
    """

    flops: ClassVar[Counter[str]] = Counter()

    def __array_ufunc__(self, ufunc: Any, method: Any, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [np.asarray(x) if isinstance(x, Tally) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(o) for o in out)
        results = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            Tally.flops["product"] += 2 * _products(np.matmul, plain)
        else:
            read = plain[0] if method != "__call__" else results
            Tally.flops[ufunc.__name__] += np.asarray(read).size
        return np.asarray(results).view(Tally)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function is np.dot:
            return np.matmul(*arguments)
        if function is np.einsum:
            Tally.flops["product"] += 2 * _products(np.einsum, arguments)
        return super().__array_function__(function, types, arguments, options)


def _products(function: Callable[..., object], arguments: Any) -> int:
    twins = [a if isinstance(a, str) else array(*np.shape(a)) for a in arguments]
    return multiply_adds(lambda: function(*twins))


def tally(compute: Callable[[], object]) -> Counter[str]:
    """What ``compute`` does with arrays that count, by function."""
    Tally.flops.clear()
    compute()
    return Counter(Tally.flops)


class Real:
    """A number with a value, which counts every operation."""

    flops = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def _counted(self, value: float) -> Real:
        Real.flops += 1
        return Real(value)

    def __add__(self, other: Real) -> Real:
        return self._counted(self.value + other.value)

    def __sub__(self, other: Real) -> Real:
        return self._counted(self.value - other.value)

    def __mul__(self, other: Real) -> Real:
        return self._counted(self.value * other.value)

    def __truediv__(self, other: Real) -> Real:
        return self._counted(self.value / other.value)

    def larger(self, other: Real) -> Real:
        return self._counted(max(self.value, other.value))

    def smaller(self, other: Real) -> Real:
        return self._counted(min(self.value, other.value))

    def apply(self, function: Callable[[float], float]) -> Real:
        """A function of one number, counted as one."""
        return self._counted(function(self.value))


def reals(values: npt.NDArray[Any]) -> Objects:
    """An array of numbers that count."""
    made: Objects = np.vectorize(lambda v: Real(float(v)), otypes=[object])(values)
    return made


def values(numbers: Any) -> npt.NDArray[np.float64]:
    """Their values."""
    result: npt.NDArray[np.float64] = np.vectorize(lambda n: n.value, otypes=[float])(numbers)
    return result


def operations(compute: Callable[[], Any]) -> tuple[Any, int]:
    """What ``compute`` returns, and how many operations it took."""
    Real.flops = 0
    result = compute()
    return result, Real.flops
