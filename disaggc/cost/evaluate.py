"""What a checked formula comes to on one op."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Protocol

from disaggc.cost.einsum import points
from disaggc.ir import WORKLOAD_SYMBOLS, Expr

ARITHMETIC: dict[type[ast.operator], Callable[[Expr, Expr], Expr]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
COMPARISON: dict[type[ast.cmpop], Callable[[Expr, Expr], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Operands(Protocol):
    """What a formula asks of the op it is evaluated on."""

    def shape(self, name: str) -> tuple[Expr, ...] | None:
        """Extents of an input or output by its schema name; None if it is absent or unknown."""
        ...

    def shapes(self, name: str) -> tuple[tuple[Expr, ...] | None, ...]:
        """Extents of each operand of a variadic input, the last one of its op."""
        ...

    def has(self, name: str) -> bool:
        """Whether an input or output is there, of known shape or not, or an attribute is given."""
        ...

    def attribute(self, name: str) -> Expr:
        """A numeric attribute, or its declared default; the product of a list of numbers."""
        ...

    def text(self, name: str) -> str:
        """A text attribute, or its declared default."""
        ...

    def symbol(self, name: str) -> Expr:
        """A workload symbol."""
        ...


def evaluate(node: ast.expr, op: Operands) -> Expr:
    """The value of a number.

    Raises:
        ValueError: An operand or attribute that it needs is absent, or has no known shape.
    """
    match node:
        case ast.Constant(value=int() | float() as value):
            return Expr.of(value)
        case ast.Name(id=name):
            return op.symbol(name) if name in WORKLOAD_SYMBOLS else op.attribute(name)
        case ast.BinOp(left=left, op=kind, right=right):
            return ARITHMETIC[type(kind)](evaluate(left, op), evaluate(right, op))
        case ast.UnaryOp(operand=operand):
            return -evaluate(operand, op)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return evaluate(body if _holds(test, op) else orelse, op)
        case ast.Call(func=ast.Name(id="log2"), args=[number]):
            return Expr.of(_log2(evaluate(number, op)))
        case ast.Call(func=ast.Name(id=function), args=[ast.Name(id=name), *rest]):
            return _call(function, name, rest, op)
    raise AssertionError(f"unchecked formula: {ast.unparse(node)}")


def _holds(node: ast.expr, op: Operands) -> bool:
    match node:
        case ast.UnaryOp(operand=operand):
            return not _holds(operand, op)
        case ast.Compare(left=ast.Name(id=name), ops=[kind], comparators=[ast.Constant(value=str() as text)]):
            return (op.text(name) == text) is isinstance(kind, ast.Eq)
        case ast.Compare(left=left, ops=[kind], comparators=[right]):
            return COMPARISON[type(kind)](evaluate(left, op), evaluate(right, op))
        case ast.Call(args=[ast.Name(id=name)]):
            return op.has(name)
    raise AssertionError(f"unchecked condition: {ast.unparse(node)}")


def _call(function: str, name: str, rest: list[ast.expr], op: Operands) -> Expr:
    match function, rest:
        case "count", _:
            return Expr.of(len(op.shapes(name)))
        case "points", [ast.Name(id=equation)]:
            return points(op.text(equation), op.shapes(name))
        case "volume", _:
            return op.attribute(name)
    shape = op.shape(name)
    if shape is None:
        raise ValueError(f"'{name}' is absent or has no known shape")
    if function == "rank":
        return Expr.of(len(shape))
    return Expr.product(shape) if function == "size" else _axis(name, shape, evaluate(rest[0], op))


def _axis(name: str, shape: tuple[Expr, ...], index: Expr) -> Expr:
    axis = index.constant
    if axis is None or not -len(shape) <= axis < len(shape):
        raise ValueError(f"'{name}' has no axis {index}")
    return shape[int(axis)]


def _log2(number: Expr) -> float:
    if number.constant is None or number.constant <= 0:
        raise ValueError(f"{number} has no known logarithm")
    return math.log2(number.constant)
