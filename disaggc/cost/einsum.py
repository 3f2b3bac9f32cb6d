"""How many points an Einsum equation runs over."""

from __future__ import annotations

from collections.abc import Sequence

from disaggc.ir import Expr

ELLIPSIS = "..."


def points(equation: str, shapes: Sequence[tuple[Expr, ...] | None]) -> Expr:
    """The product of the extents of all letters of ``equation``, those behind an ellipsis too.

    Args:
        equation: As Einsum has it: 'bij,bjk->bik'.
        shapes: Extents of its operands, in order.

    Raises:
        ValueError: An operand has no known shape, or the equation is not one over these operands.
    """
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"'{equation}' is no equation over {len(shapes)} operands")
    extents: dict[str, Expr] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if shape is None:
            raise ValueError(f"an operand of '{equation}' has no known shape")
        for letter, extent in zip(_letters(term, len(shape)), shape, strict=True):
            if extents.get(letter, Expr.of(1)) == Expr.of(1):  # an extent of one is broadcast
                extents[letter] = extent
    return Expr.product(extents.values())


def _letters(term: str, rank: int) -> list[str]:
    """One name an axis; an ellipsis stands for the axes left over, counted from the last."""
    before, dots, after = term.partition(ELLIPSIS)
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden > 0 and not dots):
        raise ValueError(f"'{term}' does not name {rank} axes")
    return [*before, *(f"{ELLIPSIS}{k}" for k in range(hidden, 0, -1)), *after]
