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
from collections.abc import Iterator
from dataclasses import dataclass

from disaggc.cost.evaluate import ARITHMETIC, COMPARISON, Operands, evaluate
from disaggc.errors import DeclarationError
from disaggc.ir import WORKLOAD_SYMBOLS, Expr

OPERAND, LIST, ATTRIBUTE, NUMBER = "o", "l", "a", "#"
FUNCTIONS = {
    "size": OPERAND,
    "dim": OPERAND + NUMBER,
    "rank": OPERAND,
    "count": LIST,
    "volume": ATTRIBUTE,
    "points": LIST + ATTRIBUTE,
    "log2": NUMBER,
}
"""Functions that give a number, with the kinds of their arguments; a list is a variadic input."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A checked formula.

    Attributes:
        names: The schema names that it reads.
        operands: Those of inputs and outputs.
        attributes: Those of attributes.
        variadic: Those of variadic inputs.
    """

    text: str
    tree: ast.expr
    names: frozenset[str]
    operands: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
    variadic: frozenset[str] = frozenset()

    def evaluate(self, op: Operands) -> Expr:
        """Its value on one op.

        Raises:
            ValueError: An operand that it needs has no known shape.
        """
        return evaluate(self.tree, op)


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
    names -= set(WORKLOAD_SYMBOLS)
    variadic = _arguments(tree, LIST)
    operands = _arguments(tree, OPERAND) | variadic
    return Formula(text, tree, names, operands, names - operands - _asked_for(tree), variadic)


def _arguments(tree: ast.expr, kind: str) -> frozenset[str]:
    """The names that functions take for arguments of this kind."""
    return frozenset(
        argument.id
        for function, arguments in _calls(tree)
        for expected, argument in zip(FUNCTIONS.get(function, ""), arguments, strict=False)
        if expected == kind and isinstance(argument, ast.Name)
    )


def _asked_for(tree: ast.expr) -> frozenset[str]:
    """The names that conditions ask for, whatever they are."""
    return frozenset(a.id for f, (a, *_) in _calls(tree) if f == "has" and isinstance(a, ast.Name))


def _calls(tree: ast.expr) -> Iterator[tuple[str, list[ast.expr]]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=function), args=arguments):
                yield function, arguments


def _names(node: ast.expr) -> Iterator[str]:
    """The names that a number reads; whatever is no number is refused."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return
        case ast.Name(id=name):
            yield name
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
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
        if kind != NUMBER and not isinstance(argument, ast.Name):
            raise ValueError(f"'{ast.unparse(argument)}' is no name")
        yield from _names(argument)


def _names_of_condition(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from _names_of_condition(operand)
        case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[ast.Constant(value=str())]) if (
            type(op) in COMPARISON
        ):
            yield name
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISON:
            yield from (*_names(left), *_names(right))
        case ast.Call(func=ast.Name(id="has"), args=[ast.Name(id=name)], keywords=[]):
            yield name
        case _:
            raise ValueError(f"'{ast.unparse(node)}' is no condition")
