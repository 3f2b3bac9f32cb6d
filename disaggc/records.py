"""Turns what a TOML or JSON parser returns into frozen dataclasses, and back.

One door for every declaration, job and plan: unknown keys, missing keys and wrong types become
one line that says where and what, with the nearest name that exists.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import cattrs
from cattrs.strategies import configure_union_passthrough

from disaggc.errors import nearest

T = TypeVar("T")


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=True)
    configure_union_passthrough(bool | int | float | str | None, converter)
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook(int, _int)
    converter.register_structure_hook(str, _str)
    converter.register_structure_hook(bool, _bool)
    return converter


def _float(value: object, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)


def _int(value: object, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value


def _str(value: object, _: type) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    return value


def _bool(value: object, _: type) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {value!r}")
    return value


_CONVERTER = _converter()


def structure(data: object, record: type[T], where: str, error: type[Exception]) -> T:
    """The record of type ``record`` that ``data`` spells.

    Args:
        data: Nested dicts, lists and scalars as a TOML or JSON parser returns them.
        record: A frozen dataclass.
        where: What is being read, for the message ('job.toml').
        error: The class to raise.

    Raises:
        error: A key is unknown or missing, or a value has the wrong type.
    """
    try:
        return _CONVERTER.structure(data, record)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError) as problem:
        path, text = _first(problem, "")
        raise error(f"{where}{f', at {path}' if path else ''}: {text}") from problem


def unstructure(record: object) -> dict[str, Any]:
    """The dict that ``structure`` reads back; fields that hold their default are left out."""
    result: dict[str, Any] = _CONVERTER.unstructure(record)
    return result


def _first(problem: BaseException, path: str) -> tuple[str, str]:
    """Path and text of the first leaf of a cattrs error group."""
    if isinstance(problem, cattrs.ForbiddenExtraKeysError):
        key = sorted(problem.extra_fields)[0]
        known = [f.name for f in dataclasses.fields(problem.cl)]
        return path, f"Unknown key '{key}'.{nearest(key, known)}"
    if isinstance(problem, cattrs.BaseValidationError):
        unknown = [e for e in problem.exceptions if isinstance(e, cattrs.ForbiddenExtraKeysError)]
        inner = (unknown or problem.exceptions)[0]
        notes = getattr(inner, "__notes__", [])
        step = next((str(n.name if hasattr(n, "name") else n.index) for n in notes if _is_step(n)), "")
        return _first(inner, f"{path}.{step}".strip(".") if step else path)
    if isinstance(problem, KeyError):
        return path.rpartition(".")[0], f"Key '{problem.args[0]}' is missing."
    text = str(problem) or type(problem).__name__
    return path, text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _is_step(note: object) -> bool:
    return hasattr(note, "name") or hasattr(note, "index")
