"""What ops.csv says that each op takes."""

from __future__ import annotations

import csv
from pathlib import Path

from disaggc.backends.emitters.op_table import TABLE
from disaggc.ir import Phase


def read_work(folder: Path) -> dict[tuple[Phase, int], tuple[float, float]]:
    """Flops and bytes of each op that has a price, by phase and node; the table has been read before."""
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (Phase(row["phase"]), int(row["node"])): (float(row["flops"]), float(row["bytes"]))
        for row in rows
        if row["flops"] and row["bytes"]
    }
