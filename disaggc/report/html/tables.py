"""Reads the tables of a plan folder: kinds of ops from ops.csv, figures of machines from machines.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from disaggc.errors import PlanError
from disaggc.report.html.views import OpClass
from disaggc.targets import Confidence, Figure


@dataclass(frozen=True, slots=True)
class Machine:
    """A system of the fleet: texts and figures."""

    name: str
    title: str
    device: str
    memory: str
    count: int
    figures: Mapping[str, Figure]


def read_machines(folder: Path) -> dict[str, Machine]:
    """The systems of the fleet that a plan was made for, by name.

    Raises:
        PlanError: machines.csv cannot be read.
    """
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in _rows(folder / "machines.csv"):
        found.setdefault(row["system"], {})[row["figure"]] = row
    return {name: _machine(name, rows) for name, rows in found.items()}


def _machine(name: str, rows: Mapping[str, Mapping[str, str]]) -> Machine:
    texts = {key: rows[key]["value"] if key in rows else "" for key in ("title", "device", "memory", "fleet")}
    figures = {key: _figure(row) for key, row in rows.items() if key not in texts}
    return Machine(name, texts["title"], texts["device"], texts["memory"], int(texts["fleet"] or 1), figures)


def _figure(row: Mapping[str, str]) -> Figure:
    low, high = (float(row[end]) if row[end] else None for end in ("low", "high"))
    confidence = Confidence[row["confidence"]]
    told = (row["source"], row["date"], confidence, low, high, row["note"])
    return Figure(float(row["value"]), row["unit"], *told)


def fleet_counts(folder: Path) -> dict[str, int]:
    """How many there were of each system in the fleet that a plan was made for.

    Raises:
        PlanError: machines.csv is missing.
    """
    return {machine.name: machine.count for machine in read_machines(folder).values()}


def link_rates(folder: Path) -> dict[str, float]:
    """System to the bytes per second that one of them takes in from outside, as a plan was priced.

    Raises:
        PlanError: machines.csv is missing.
    """
    name = "scale_out.bandwidth_one_way"
    return {m.name: m.figures[name].si for m in read_machines(folder).values() if name in m.figures}


def read_op_classes(folder: Path) -> dict[str, list[OpClass]]:
    """All ops of one kind, role and phase as one, by pool, in order of first appearance.

    Raises:
        PlanError: ops.csv cannot be read.
    """
    sums: dict[tuple[str, str, str, str], tuple[int, float, float]] = {}
    for row in _rows(folder / "ops.csv"):
        if row.get("flops"):
            key = (row["pool"], row["phase"], row["role"], row["op"])
            count, flops, moved = sums.get(key, (0, 0.0, 0.0))
            sums[key] = (count + 1, flops + float(row["flops"]), moved + float(row["bytes"]))
    found: dict[str, list[OpClass]] = {}
    for (pool, phase, role, op), told in sums.items():
        found.setdefault(pool, []).append(OpClass(phase, role, op, *told))
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file, restval="")
    except OSError as error:
        raise PlanError(
            f"Plan '{path.parent}' lacks '{path.name}' ({error.strerror}). Compile it again."
        ) from error
