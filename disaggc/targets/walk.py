"""Visits every figure of a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from disaggc.targets.figure import Figure


def figures(record: object, path: str = "") -> Iterator[tuple[str, Figure]]:
    """Every figure below a record with its dotted path ('memories.hbm.capacity'), in field order.

    Args:
        record: A frozen dataclass of this package, or a mapping or tuple of them.
        path: Where the record itself lies.
    """
    if isinstance(record, Figure):
        yield path, record
        return
    for name, part in _parts(record):
        yield from figures(part, f"{path}.{name}" if path else name)


def _parts(record: object) -> Iterable[tuple[str, object]]:
    if dataclasses.is_dataclass(record):
        return [(field.name, getattr(record, field.name)) for field in dataclasses.fields(record)]
    if isinstance(record, Mapping):
        return [(str(key), part) for key, part in record.items()]
    if isinstance(record, tuple):
        return [(getattr(part, "name", str(index)), part) for index, part in enumerate(record)]
    return []
