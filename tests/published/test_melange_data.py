"""Mélange's README example comes to $6.70 an hour: every assignment of its buckets is tried."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

EXAMPLE: dict[str, Any] = json.loads((Path(__file__).parent / "melange.json").read_text(encoding="utf-8"))


def _cost(gpus: tuple[str, ...]) -> tuple[float, dict[str, int]]:
    """USD/h of serving each bucket on the GPU type named for it, and how many of each that takes."""
    loads = dict.fromkeys(EXAMPLE["gpu_info"], 0.0)
    buckets = itertools.product(*(range(len(EXAMPLE["workload_distribution"])),) * 2)
    for (i, j), gpu in zip(buckets, gpus, strict=True):
        rate = EXAMPLE["total_request_rate"] * EXAMPLE["workload_distribution"][i][j]
        loads[gpu] += rate / EXAMPLE["gpu_info"][gpu]["tputs"][i][j]
    counts = {gpu: math.ceil(load - 1e-9) for gpu, load in loads.items()}
    return sum(n * EXAMPLE["gpu_info"][gpu]["cost"] for gpu, n in counts.items()), counts


def test_the_least_cost_over_all_assignments_is_the_readmes_answer() -> None:
    assert EXAMPLE["slice_factor"] == 1
    every = [_cost(gpus) for gpus in itertools.product(EXAMPLE["gpu_info"], repeat=4)]
    cost, counts = min(every, key=lambda found: found[0])
    assert cost == pytest.approx(EXAMPLE["answer"]["cost"])
    assert counts == {gpu: EXAMPLE["answer"][gpu] for gpu in EXAMPLE["gpu_info"]}


def test_a_mixture_is_cheaper_than_either_kind_alone() -> None:
    alone = [_cost((gpu,) * 4)[0] for gpu in EXAMPLE["gpu_info"]]
    assert min(alone) > EXAMPLE["answer"]["cost"]
