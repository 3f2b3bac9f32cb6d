"""Cost formulas: a small arithmetic over an op's inputs, outputs and attributes.

    2 * size(Y) * dim(A, -1)
    2 * (size(Q) + size(Y)) * (total if has(past_key) else dim(K, -2))
    (0 if mode == 'nearest' else 8) * size(Y)

Names are those of the op's schema and the workload symbols.

    size(x)             how many elements an input or output has
    dim(x, i)           one of its extents
    rank(x)             how many axes it has
    count(x)            how many operands a variadic input, the last one of its op, is given
    volume(a)           the product of the numbers of a list attribute
    points(x, a)        the product of the extents of all letters in the Einsum equation ``a`` over ``x``
    log2(number)        its logarithm, of a number that no symbol is in

Conditions are comparisons with == or != of numbers, or of an attribute with a text, and ``has(x)``:
whether an optional input, output or attribute is given. The text is parsed once into a checked
tree; nothing is ever handed to ``eval``.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from disaggc.cost.einsum import points
from disaggc.errors import DeclarationError
from disaggc.ir import WORKLOAD_SYMBOLS, Expr

NAME, NUMBER = "n", "#"
FUNCTIONS = {
    "size": NAME,
    "dim": NAME + NUMBER,
    "rank": NAME,
    "count": NAME,
    "volume": NAME,
    "points": NAME + NAME,
    "log2": NUMBER,
}
"""Functions that give a number, with the kinds of their arguments."""

_ARITHMETIC: dict[type[ast.operator], Callable[[Expr, Expr], Expr]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISON: dict[type[ast.cmpop], Callable[[Expr, Expr], bool]] = {
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


@dataclass(frozen=True, slots=True)
class Formula:
    """A checked formula.

    Attributes:
        names: The schema names that it reads.
        variadic: Those of them that it takes for variadic inputs.
    """

    text: str
    tree: ast.expr
    names: frozenset[str]
    variadic: frozenset[str] = frozenset()

    def evaluate(self, op: Operands) -> Expr:
        """Its value on one op.

        Raises:
            ValueError: An operand that it needs has no known shape.
        """
        return _number(self.tree, op)


def parse_formula(text: str, where: str) -> Formula:
    """Parse and check a formula.

    Raises:
        DeclarationError: It is no formula; ``where`` says whose.
    """
    try:
        tree = ast.parse(text, mode="eval").body
        names = frozenset(_names(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # of the parser, on nested texts
        raise DeclarationError(f"{where}: '{text}' is no cost formula: {error}.") from error
    return Formula(text, tree, names - set(WORKLOAD_SYMBOLS), frozenset(_variadic(tree)))


def _variadic(tree: ast.expr) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="count" | "points"), args=[ast.Name(id=name), *_]):
                yield name


def _names(node: ast.expr) -> Iterator[str]:
    """The names that a number reads; whatever is no number is refused."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return
        case ast.Name(id=name):
            yield name
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            yield from (*_names(left), *_names(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield from _names(operand)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield from (*_names_of_condition(test), *_names(body), *_names(orelse))
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]) if function in FUNCTIONS:
            yield from _names_of_call(FUNCTIONS[function], arguments)
        case _:
            raise ValueError(f"'{ast.unparse(node)}' is not allowed")


def _names_of_call(kinds: str, arguments: list[ast.expr]) -> Iterator[str]:
    """The names that a call reads, if its arguments are of ``kinds``."""
    if len(kinds) != len(arguments):
        raise ValueError(f"{len(arguments)} arguments instead of {len(kinds)}")
    for kind, argument in zip(kinds, arguments, strict=True):
        if kind == NAME and not isinstance(argument, ast.Name):
            raise ValueError(f"'{ast.unparse(argument)}' is no name")
        yield from _names(argument)


def _names_of_condition(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from _names_of_condition(operand)
        case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[ast.Constant(value=str())]) if (
            type(op) in _COMPARISON
        ):
            yield name
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISON:
            yield from (*_names(left), *_names(right))
        case ast.Call(func=ast.Name(id="has"), args=[ast.Name(id=name)], keywords=[]):
            yield name
        case _:
            raise ValueError(f"'{ast.unparse(node)}' is no condition")


def _number(node: ast.expr, op: Operands) -> Expr:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Expr.of(value)
        case ast.Name(id=name):
            return op.symbol(name) if name in WORKLOAD_SYMBOLS else op.attribute(name)
        case ast.BinOp(left=left, op=kind, right=right):
            return _ARITHMETIC[type(kind)](_number(left, op), _number(right, op))
        case ast.UnaryOp(operand=operand):
            return -_number(operand, op)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _number(body if _holds(test, op) else orelse, op)
        case ast.Call(func=ast.Name(id="log2"), args=[number]):
            return Expr.of(_log2(_number(number, op)))
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
            return _COMPARISON[type(kind)](_number(left, op), _number(right, op))
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
    return Expr.product(shape) if function == "size" else _axis(name, shape, _number(rest[0], op))


def _axis(name: str, shape: tuple[Expr, ...], index: Expr) -> Expr:
    axis = index.constant
    if axis is None or not -len(shape) <= axis < len(shape):
        raise ValueError(f"'{name}' has no axis {index}")
    return shape[int(axis)]


def _log2(number: Expr) -> float:
    if number.constant is None or number.constant <= 0:
        raise ValueError(f"{number} has no known logarithm")
    return math.log2(number.constant)
