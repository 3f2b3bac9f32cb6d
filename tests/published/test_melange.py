"""Mélange's README example through our own fleet solver: 3 A10G and 1 A100, $6.70 an hour (arXiv 2404.14527).

A GPU is a system of forty equal slices, a bucket of requests is a tier, and a column is one slice. Mélange
sends a bucket to one type whole (its slice_factor is 1), so every assignment is a market of its own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made import LIBRARY

from disaggc.cost import Group
from disaggc.placement.fleet.choose import Choice, choose, objective_of
from disaggc.placement.fleet.columns import Column
from disaggc.placement.fleet.demand import Demand, Fleet
from disaggc.placement.fleet.master import Market
from disaggc.placement.pricing import Limits, Load
from disaggc.targets import Confidence, Figure, System

EXAMPLE: dict[str, Any] = json.loads((Path(__file__).parent / "melange.json").read_text(encoding="utf-8"))
SLICES = 40
BUCKETS = tuple(itertools.product(range(2), range(2)))
MOST = 20


def _gpu(name: str) -> System:
    made = LIBRARY.system("h100-x8")
    price = EXAMPLE["gpu_info"][name]["cost"]
    usd = Figure(price, "USD/h", "inferred", "2024-06-26", Confidence.I, price, price, "melange.json")
    return replace(
        made, name=name, count=replace(made.count, value=float(SLICES)), quantum=SLICES, usd_per_h=usd
    )


FLEET: Fleet = tuple((_gpu(name), MOST) for name in EXAMPLE["gpu_info"])
TIERS = tuple(
    Demand(
        f"bucket {i}{j}",
        Load(1, 0, 1, 2),
        Limits(None, None),
        requests_per_s=EXAMPLE["total_request_rate"] * EXAMPLE["workload_distribution"][i][j],
    )
    for i, j in BUCKETS
)


def _columns(allowed: Iterable[tuple[int, str]]) -> tuple[Column, ...]:
    """A slice of a GPU for a bucket, for each bucket and GPU type that it may go to."""
    systems = {system.name: system for system, _ in FLEET}
    found = []
    for tier, gpu in allowed:
        i, j = BUCKETS[tier]
        rate = EXAMPLE["gpu_info"][gpu]["tputs"][i][j] / SLICES
        groups = (Group(systems[gpu], 1, 1, 1, 1, 1),)
        found.append(Column(tier, "whole", f"on {gpu}", gpu, ((gpu, 1),), rate, groups))
    return tuple(found)


def _cheapest(allowed: Iterable[tuple[int, str]]) -> Choice | None:
    return choose(Market(_columns(allowed), TIERS, FLEET), objective_of("cost", TIERS, FLEET), tolerance=0.0)


def test_whole_buckets_cost_what_the_readme_says() -> None:
    assignments = itertools.product(EXAMPLE["gpu_info"], repeat=len(TIERS))
    choices = [c for a in assignments if (c := _cheapest(enumerate(a))) is not None]
    best = min(choices, key=lambda choice: choice.value)
    assert best.value == pytest.approx(EXAMPLE["answer"]["cost"])
    assert best.mix.systems == (EXAMPLE["answer"]["A10G"], EXAMPLE["answer"]["A100-80GB"])


def test_buckets_that_may_be_split_cost_less_which_is_why_melange_slices_them() -> None:
    split = _cheapest(itertools.product(range(len(TIERS)), EXAMPLE["gpu_info"]))
    assert split is not None
    assert split.value == pytest.approx(1.01 + 3.67)
