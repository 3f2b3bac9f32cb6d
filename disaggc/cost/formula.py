"""Cost formulas: a small arithmetic over an op's inputs, outputs and attributes.

    2 * size(Y) * dim(A, -1)
    2 * (size(Q) + size(Y)) * (total if has(past_key) else dim(K, -2))

Names are those of the op's schema and the workload symbols. ``size(x)`` is the number of elements,
``dim(x, i)`` one extent, ``rank(x)`` the number of axes, ``has(x)`` whether an optional input is
given. The text is parsed once into a checked tree; nothing is ever handed to ``eval``.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from disaggc.errors import DeclarationError
from disaggc.ir import WORKLOAD_SYMBOLS, Expr

FUNCTIONS = ("size", "dim", "rank", "has")
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISON: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Operands(Protocol):
    """What a formula asks of the op it is evaluated on."""

    def shape(self, name: str) -> tuple[Expr, ...] | None:
        """Extents of an input or output by its schema name; None if it is absent or unknown."""
        ...

    def attribute(self, name: str) -> Expr:
        """A numeric attribute, or its declared default."""
        ...

    def symbol(self, name: str) -> Expr:
        """A workload symbol."""
        ...


@dataclass(frozen=True, slots=True)
class Formula:
    """A checked formula. ``names`` are the schema names that it reads."""

    text: str
    tree: ast.expr
    names: frozenset[str]

    def evaluate(self, op: Operands) -> Expr:
        """Its value on one op.

        Raises:
            ValueError: An operand that it needs has no known shape.
        """
        value = _evaluate(self.tree, op)
        return Expr.of(int(value)) if isinstance(value, bool) else Expr.of(value)


def parse_formula(text: str, where: str) -> Formula:
    """Parse and check a formula.

    Raises:
        DeclarationError: It is no formula; ``where`` says whose.
    """
    try:
        tree = ast.parse(text, mode="eval").body
        names: set[str] = set()
        _check(tree, names)
    except (SyntaxError, ValueError) as error:
        raise DeclarationError(f"{where}: '{text}' is no cost formula: {error}.") from error
    return Formula(text, tree, frozenset(names - set(WORKLOAD_SYMBOLS)))


def _check(node: ast.expr, names: set[str]) -> None:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return
        case ast.Name(id=name):
            names.add(name)
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            children: list[ast.expr] = [left, right]
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            children = [operand]
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISON:
            children = [left, right]
        case ast.IfExp(test=test, body=body, orelse=orelse):
            children = [test, body, orelse]
        case ast.Call(func=ast.Name(id=name), args=[ast.Name(id=operand), *rest]) if name in FUNCTIONS:
            names.add(operand)
            children = rest
        case _:
            raise ValueError(f"'{ast.unparse(node)}' is not allowed")
    for child in children:
        _check(child, names)


def _evaluate(node: ast.expr, op: Operands) -> Any:
    match node:
        case ast.Constant(value=value):
            return Expr.of(value)  # type: ignore[arg-type]  # _check let numbers through only
        case ast.Name(id=name):
            return op.symbol(name) if name in WORKLOAD_SYMBOLS else op.attribute(name)
        case ast.BinOp(left=left, op=kind, right=right):
            return _ARITHMETIC[type(kind)](_evaluate(left, op), _evaluate(right, op))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, op)
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, op)
        case ast.Compare(left=left, ops=[kind], comparators=[right]):
            return _COMPARISON[type(kind)](_evaluate(left, op), _evaluate(right, op))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _evaluate(body if _evaluate(test, op) else orelse, op)
        case ast.Call(func=ast.Name(id=function), args=[ast.Name(id=name), *rest]):
            return _call(function, name, [_evaluate(a, op) for a in rest], op)
    raise AssertionError(f"unchecked formula: {ast.unparse(node)}")


def _call(function: str, name: str, arguments: list[Expr], op: Operands) -> Any:
    shape = op.shape(name)
    if function == "has":
        return shape is not None
    if shape is None:
        raise ValueError(f"'{name}' is absent or has no known shape")
    match function:
        case "rank":
            return Expr.of(len(shape))
        case "dim":
            index = arguments[0].constant
            if index is None or not -len(shape) <= int(index) < len(shape):
                raise ValueError(f"'{name}' has no axis {arguments[0]}")
            return shape[int(index)]
    return Expr.product(shape)
