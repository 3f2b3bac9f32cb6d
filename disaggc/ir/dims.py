"""Symbolic dimensions and the sums of products that costs are made of.

An ``Expr`` is a polynomial with float coefficients over symbols: ``2*batch*new*4096``. Exporters
write dims as such expressions ('past + seq', '2*batch*seq'), and flops and bytes are products
and sums of dims, so one small type carries both. Four symbols stand for the workload; every
other symbol is an exporter's own name until a pass binds it.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BATCH = "batch"  # requests in one step
NEW = "new"  # tokens a request adds in one step
CACHED = "cached"  # tokens a request has in its cache before the step
TOTAL = "total"  # cached + new
WORKLOAD_SYMBOLS = (BATCH, NEW, CACHED, TOTAL)

Number = int | float
Array = npt.NDArray[np.float64]
_Monomial = tuple[tuple[str, int], ...]
ROUNDING = 1e-12
"""What a long division may leave over of a term, as a share of the term that it divides."""


@dataclass(frozen=True, slots=True)
class Expr:
    """A polynomial: monomial (symbols with powers, sorted by name) to coefficient."""

    terms: tuple[tuple[_Monomial, float], ...] = ()

    @staticmethod
    def of(value: Number | str | Expr) -> Expr:
        """A constant, a symbol, or the expression itself."""
        if isinstance(value, Expr):
            return value
        if isinstance(value, str):
            return Expr(((((value, 1),), 1.0),))
        return Expr((((), float(value)),)) if value else Expr()

    @staticmethod
    def total(parts: list[Expr]) -> Expr:
        """The sum of many expressions, in one pass."""
        sums: dict[_Monomial, float] = {}
        for part in parts:
            for monomial, coefficient in part.terms:
                sums[monomial] = sums.get(monomial, 0.0) + coefficient
        return _from(sums)

    @staticmethod
    def product(parts: Iterable[Expr]) -> Expr:
        """The product of many expressions; 1 for none."""
        return functools.reduce(operator.mul, parts, _ONE)

    @property
    def symbols(self) -> frozenset[str]:
        """The names that occur."""
        return frozenset(name for monomial, _ in self.terms for name, _ in monomial)

    @property
    def constant(self) -> float | None:
        """Its value if no symbol occurs, else None."""
        if not self.terms:
            return 0.0
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    def __add__(self, other: Number | Expr) -> Expr:
        return Expr.total([self, Expr.of(other)])

    __radd__ = __add__

    def __neg__(self) -> Expr:
        return self * -1

    def __sub__(self, other: Number | Expr) -> Expr:
        return self + Expr.of(other) * -1

    def __rsub__(self, other: Number | Expr) -> Expr:
        return Expr.of(other) - self

    def __mul__(self, other: Number | Expr) -> Expr:
        factor = Expr.of(other)
        if factor.terms == _ONE.terms:
            return self
        sums: dict[_Monomial, float] = {}
        for left, a in self.terms:
            for right, b in factor.terms:
                monomial = _join(left, right)
                sums[monomial] = sums.get(monomial, 0.0) + a * b
        return _from(sums)

    __rmul__ = __mul__

    def __truediv__(self, other: Number | Expr) -> Expr:
        """Exact division by a number or by a polynomial that divides this one.

        Raises:
            ValueError: The divisor is zero or leaves a remainder.
        """
        divisor = Expr.of(other)
        if not divisor.terms:
            raise ValueError(f"division of {self} by zero")
        if divisor.constant is not None:
            return Expr(tuple((monomial, c / divisor.constant) for monomial, c in self.terms))
        return _quotient(self, divisor)

    def substitute(self, binding: Mapping[str, Expr]) -> Expr:
        """This expression with symbols replaced; symbols not in ``binding`` stay."""
        if not (self.symbols & binding.keys()):
            return self
        parts = []
        for monomial, coefficient in self.terms:
            product = Expr.of(coefficient)
            for name, power in monomial:
                for _ in range(power):
                    product = product * binding.get(name, Expr.of(name))
            parts.append(product)
        return Expr.total(parts)

    def evaluate(self, values: Mapping[str, Number | Array]) -> Array:
        """Its value, vectorised: each symbol is a number or an array that broadcasts.

        Raises:
            KeyError: A symbol has no value.
        """
        result: Array = np.zeros(())
        for monomial, coefficient in self.terms:
            product: Array = np.asarray(coefficient, dtype=np.float64)
            for name, power in monomial:
                product = product * np.asarray(values[name], dtype=np.float64) ** power
            result = result + product
        return result

    def __str__(self) -> str:
        return " + ".join(_term_text(m, c) for m, c in self.terms) or "0"


_ONE = Expr.of(1)


def _from(sums: Mapping[_Monomial, float]) -> Expr:
    return Expr(tuple(sorted((m, c) for m, c in sums.items() if c)))


def _quotient(dividend: Expr, divisor: Expr) -> Expr:
    """Long division: the leading term in lexicographic order goes first, and must divide."""
    names = sorted(dividend.symbols | divisor.symbols)
    lead, by = _lead(divisor, names)
    quotient, rest = Expr(), dividend
    while rest.terms:
        monomial, coefficient = _lead(rest, names)
        step = _from({_ratio(monomial, lead, f"{dividend} / {divisor}"): coefficient / by})
        quotient = quotient + step
        left = dict((rest - step * divisor).terms)
        left.pop(monomial, None)
        rest = _from({m: c for m, c in left.items() if abs(c) > ROUNDING * abs(coefficient)})
    return quotient


def _lead(expr: Expr, names: list[str]) -> tuple[_Monomial, float]:
    return max(expr.terms, key=lambda term: [dict(term[0]).get(name, 0) for name in names])


def _ratio(monomial: _Monomial, lead: _Monomial, where: str) -> _Monomial:
    powers = dict(monomial)
    for name, power in lead:
        powers[name] = powers.get(name, 0) - power
    if min(powers.values(), default=0) < 0:
        raise ValueError(f"{where} leaves a remainder")
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _join(left: _Monomial, right: _Monomial) -> _Monomial:
    if not left or not right:
        return left or right
    powers = dict(left)
    for name, power in right:
        powers[name] = powers.get(name, 0) + power
    return tuple(sorted(powers.items()))


def _term_text(monomial: _Monomial, coefficient: float) -> str:
    names = [name if power == 1 else f"{name}**{power}" for name, power in monomial]
    number = f"{int(coefficient)}" if coefficient.is_integer() else repr(coefficient)
    return "*".join(([] if names and coefficient == 1 else [number]) + names)


@dataclass(frozen=True)
class Point(Mapping[str, Array]):
    """The workload at one point, or on a whole grid of points that broadcast.

    Besides the four symbols it knows ``total|W``, the tokens that a window of W lets attention
    read, and 1 for any extent that no pass could bind.
    """

    batch: Number | Array
    new: Number | Array
    cached: Number | Array

    def __getitem__(self, name: str) -> Array:
        match name.partition("|"):
            case ("batch" | "new" | "cached", _, _):
                return np.asarray(getattr(self, name), dtype=np.float64)
            case ("total", _, window):
                total = self["cached"] + self["new"]
                return np.minimum(total, float(window)) if window else total
        return np.asarray(1.0)

    def __iter__(self) -> Iterator[str]:
        return iter(WORKLOAD_SYMBOLS)

    def __len__(self) -> int:
        return len(WORKLOAD_SYMBOLS)


def windowed(window: int | None) -> Expr:
    """The cached and new tokens that attention reads: all, or at most ``window``."""
    return Expr.of(CACHED) + Expr.of(NEW) if window is None else Expr.of(f"{TOTAL}|{window}")


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.truediv,
}


@functools.lru_cache(maxsize=65536)
def parse_dim(text: str) -> Expr:
    """A dimension as exporters write it: '4', 'seq', 'past + seq', 's0**2', 'floor(8*b*s/(2*s))'.

    What is no polynomial ('max(a, b)') becomes one opaque symbol of that spelling.
    """
    try:
        return _parse(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # of the parser, on nested texts
        return Expr.of(text)


def _parse(node: ast.expr) -> Expr:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return Expr.of(value)
        case ast.Name(id=name):
            return Expr.of(name)
        case ast.BinOp(left=base, op=ast.Pow(), right=ast.Constant(value=int() as power)) if 0 < power < 9:
            return Expr.product([_parse(base)] * power)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_parse(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            result: Expr = _OPERATORS[type(op)](_parse(left), _parse(right))
            return result
        case ast.Call(func=ast.Name(id="floor"), args=[argument]):
            return _parse(argument)
        case ast.Call() | ast.Attribute():
            return Expr.of(ast.unparse(node))
    raise ValueError(f"no polynomial: {ast.unparse(node)}")
