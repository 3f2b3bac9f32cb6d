"""machines.csv: every number of the fleet's systems that a plan was priced with, with its source.

So that a plan folder says what it rests on without the library of targets that it was compiled with.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from disaggc.placement.decide import Decision
from disaggc.targets import Figure, System, figures

MACHINES = "machines.csv"
COLUMNS = ("system", "figure", "value", "unit", "low", "high", "confidence", "source", "date", "note")


def write_machines(decision: Decision, arithmetic: Iterable[str], folder: Path) -> str:
    """Write the table and return its SHA-256.

    Args:
        decision: Whose fleet.
        arithmetic: Number formats that price a role; a rate that nobody states is in it as inferred.
        folder: Where.
    """
    path = folder / MACHINES
    formats = sorted(set(arithmetic))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for system, count in decision.request.fleet:
            writer.writerow((system.name, "title", system.title))
            writer.writerow((system.name, "device", system.device.name))
            writer.writerow((system.name, "memory", system.device.main.name))
            writer.writerow((system.name, "fleet", count, "systems"))
            writer.writerows(_row(system.name, what, figure) for what, figure in _figures(system, formats))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _figures(system: System, formats: Iterable[str]) -> Iterator[tuple[str, Figure]]:
    yield from figures(system)
    for name in formats:
        yield f"rate.{name}", system.device.rate(name)


def _row(system: str, what: str, figure: Figure) -> tuple[str, ...]:
    low, high = ("" if end is None else f"{end:.12g}" for end in (figure.low, figure.high))
    value = f"{figure.value:.12g}"
    told = (figure.confidence.value, figure.source, figure.date, figure.note)
    return (system, what, value, figure.unit, low, high, *told)
