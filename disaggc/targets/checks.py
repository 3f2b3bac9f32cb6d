"""Checks that the records make of their own fields; the loader adds the file and the path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from disaggc.errors import DeclarationError, nearest
from disaggc.targets.figure import Figure


def check_base(what: str, figure: Figure | None, base: str) -> None:
    """Refuses a figure of another dimension: a capacity must be in bytes.

    Raises:
        DeclarationError: The figure's base unit is not ``base``.
    """
    if figure is not None and figure.base != base:
        raise DeclarationError(f"'{what}' is in '{figure.unit}'; expected a unit of {base}.")


def check_unit(what: str, figure: Figure, unit: str) -> None:
    """Refuses a figure in another unit than the one that the field's name promises.

    Raises:
        DeclarationError: The figure's unit is not ``unit``.
    """
    if figure.unit != unit:
        raise DeclarationError(f"'{what}' is in '{figure.unit}'; expected '{unit}'.")


def check_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuses a name outside a closed list.

    Raises:
        DeclarationError: A name is unknown; the message gives the nearest.
    """
    choices = list(known)
    for name in names:
        if name not in choices:
            raise DeclarationError(f"Unknown {what} '{name}'.{nearest(name, choices)}")


def check_rates(what: str, rates: Mapping[str, Figure], known: Iterable[str], base: str) -> None:
    """Refuses a table whose keys or dimensions are not as expected.

    Raises:
        DeclarationError: A key is unknown, or a figure has another base unit.
    """
    check_known(f"key of '{what}'", rates, known)
    for key, figure in rates.items():
        check_base(f"{what}.{key}", figure, base)
