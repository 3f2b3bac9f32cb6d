"""FastAFD's measured steps over the ratio of attention to FFN trays (fastafd_ratio_sweep.csv)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

SWEEPS = Path(__file__).parent / "fastafd_ratio_sweep.csv"


@dataclass(frozen=True)
class Sweep:
    """Measured tokens/s per GPU over attention trays for one FFN tray."""

    batch_per_gpu: int
    rates: dict[int, float]

    @property
    def steps_s(self) -> list[float]:
        """By the identity rate = A b / ((A + 1) step)."""
        return [a * self.batch_per_gpu / ((a + 1) * rate) for a, rate in self.rates.items()]

    def regret(self, ratio: float) -> float:
        """What a choice loses against the best of the sweep."""
        return 1 - self.rates[int(ratio)] / max(self.rates.values())


def read_sweeps() -> dict[str, Sweep]:
    lines = SWEEPS.read_text(encoding="utf-8").splitlines()
    found: dict[str, Sweep] = {}
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        sweep = found.setdefault(row["context"], Sweep(int(row["batch_per_a_gpu"]), {}))
        sweep.rates[int(row["a_trays"])] = float(row["tok_s_gpu"])
    return found


MEASURED = read_sweeps()
