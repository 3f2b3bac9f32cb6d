"""Reads ops.csv: where each op of the model runs, once for each phase."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from disaggc.errors import PlanError
from disaggc.ir import Phase

TABLE = "ops.csv"


@dataclass(frozen=True, slots=True)
class Placed:
    """One op in one phase.

    Attributes:
        phase: The phase.
        node: Index among the nodes of the model.
        op: Its type, with its domain where that is not ONNX's own.
        layer: The layer it belongs to; None outside layers.
        role: What it is for.
        pool: Where it runs.
        stage: Index of its stage within the phase.
        name: What the exporter calls it.
    """

    phase: Phase
    node: int
    op: str
    layer: int | None
    role: str
    pool: str
    stage: int
    name: str = ""


def read_ops(folder: Path) -> tuple[Placed, ...]:
    """Every row of a plan folder's table.

    Raises:
        PlanError: It is missing, or is no such table.
    """
    try:
        with (folder / TABLE).open(encoding="utf-8", newline="") as file:
            return tuple(_placed(row) for row in csv.DictReader(file))
    except OSError as error:
        raise PlanError(f"Plan '{folder}' lacks {TABLE} ({error.strerror}). Compile it again.") from error
    except (KeyError, ValueError) as error:
        raise PlanError(f"'{folder / TABLE}' is no table of ops: {error}. Compile the plan again.") from error


def _placed(row: dict[str, str]) -> Placed:
    layer = int(row["layer"]) if row["layer"] else None
    return Placed(
        Phase(row["phase"]),
        int(row["node"]),
        row["op"],
        layer,
        row["role"],
        row["pool"],
        int(row["stage"]),
        row["name"],
    )


def layers_by_role(ops: Iterable[Placed], phase: Phase, pool: str) -> dict[str, str]:
    """What a pool does in a phase: role to its layers, such as '0-3, 7'; '' for what is outside layers."""
    found: dict[str, set[int]] = {}
    for op in ops:
        if op.phase is phase and op.pool == pool:
            layers = found.setdefault(op.role, set())
            if op.layer is not None:
                layers.add(op.layer)
    return {role: ranges(sorted(layers)) for role, layers in found.items()}


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers, runs of them as '0-3': '0-3, 7'."""
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in _runs(numbers))


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for number in numbers:
        if last is not None and number != last + 1:
            assert first is not None
            yield first, last
            first = None
        first = number if first is None else first
        last = number
    if first is not None and last is not None:
        yield first, last
