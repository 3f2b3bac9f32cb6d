"""Arithmetic that others published about tiers and capacities, from our declarations and graphs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from skeletons import MODELS

from disaggc.cost import Formats
from disaggc.ir import Graph, Role
from disaggc.placement.pieces import fold
from disaggc.targets import load_library

MEGAWATTS = 250
"""A quarter of a gigawatt for each of four tiers, as the GTC 2026 keynote allots it."""
YEAR_S = 365 * 24 * 3600
BILLION = 1e9
LPU_BYTES = 500 * 2**20
"""SRAM of one LP30 where 500 MB are read as MiB, as the published counts do."""


@pytest.mark.parametrize(
    ("machine", "premium", "keynote"),
    [
        ("blackwell", "blackwell", 30),
        ("vera-rubin", "vera-rubin", 150),
        ("vera-rubin", "vera-rubin-lpx", 300),
    ],
)
def test_the_tiers_bring_the_keynote_s_revenue_of_a_gigawatt(
    machine: str, premium: str, keynote: float
) -> None:
    """Within a tenth: the rates are read off a chart, and two of them follow from this very arithmetic."""
    library = load_library()
    revenue = 0.0
    for name in ("free", "medium", "high", "premium"):
        tier = library.tier(f"gtc2026/{name}")
        rate = tier.tps_per_mw[premium if name == "premium" else machine].value
        revenue += MEGAWATTS * rate * YEAR_S * tier.price_usd_per_mtok.value / 1e6
    assert revenue / BILLION == pytest.approx(keynote, rel=0.1)


def test_qwen3_235b_s_routed_experts_need_434_lpus(analysed: Callable[[str], Graph]) -> None:
    """Published: 227.1 billion parameters in FP8 on 433.2 LPUs, 1.69 racks of 256."""
    pieces = fold(analysed("full.qwen3_235b.moe_op")).pieces
    experts = [p for p in pieces if p.role is Role.EXPERTS]
    held = sum(p.count * p.work.bill.experts_resident_bytes(Formats("fp8")) for p in experts)
    assert held == pytest.approx(227.1e9, rel=1e-3)
    assert math.ceil(held / LPU_BYTES) == 434
    assert held / LPU_BYTES / 256 == pytest.approx(1.69, abs=0.01)


def test_deepseek_v3_s_routed_experts_need_1248_lpus() -> None:
    """Published as 1,247, which holds 1,247.2 rounded down: the last fifth of an LPU is one more."""
    config = json.loads((MODELS / "configs" / "deepseek_v3.json").read_text())
    layers = config["num_hidden_layers"] - config["first_k_dense_replace"]
    each = 3 * config["hidden_size"] * config["moe_intermediate_size"]
    held = layers * config["n_routed_experts"] * each
    assert held == pytest.approx(653.9e9, rel=1e-3)
    assert held / LPU_BYTES == pytest.approx(1247.2, abs=0.1)
    assert math.ceil(held / LPU_BYTES) == 1248
    rack = load_library().system("groq3-lpx")
    assert held / rack.capacity_bytes > 4.87
