"""MegaScale-Infer's choice of machines (arXiv 2504.02263, Table 3): H20 for attention, L40S for experts.

The table's prices are relative to L20; its rates are those of our declared machines, in bf16 as the paper
serves. L20 is not declared and stands with the table's own numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from disaggc.cost.ideal import Hourly, cheapest
from disaggc.errors import TargetError
from disaggc.ir import Graph
from disaggc.passes.token_work import token_work
from disaggc.targets import System, load_library

PRICE = {"h800-x8": 5.28, "a800-x8": 2.26, "h20-x8": 1.85, "l40s-x8": 1.08}
"""Table 3, one GPU."""
PER_PRICE = {
    "h800-x8": (15.2, 649.7, 187.3),
    "a800-x8": (35.4, 902.2, 138.1),
    "h20-x8": (51.9, 2214.1, 80.0),
    "l40s-x8": (44.4, 800.0, 335.2),
}
"""The same table's GB, GB/s and bf16 TFLOPS for one unit of price."""
TRACE = 571 + 159 // 2
"""Tokens in the cache half-way through the paper's median request."""


def priced(name: str) -> System:
    """A declared machine at the paper's price."""
    system = load_library().system(name)
    assert system.usd_per_h is not None
    price = replace(system.usd_per_h, value=PRICE[name] * system.devices, low=None, high=None)
    return replace(system, usd_per_h=price)


MACHINES = {name: Hourly.of(priced(name), rates=("bf16",)) for name in PRICE}
MACHINES["l20"] = Hourly(1.00, 119.5e12, 864e9)


@pytest.mark.parametrize("name", PRICE)
def test_the_declared_machines_give_table_3(name: str) -> None:
    capacity = load_library().system(name).device.main.capacity.si
    machine = MACHINES[name]
    amounts = (capacity / 1e9, machine.bytes_per_s / 1e9, machine.flops_per_s / 1e12)
    assert [each / PRICE[name] for each in amounts] == pytest.approx(PER_PRICE[name], abs=0.06)


def test_h20_has_most_bandwidth_and_capacity_for_its_price_and_l40s_most_arithmetic() -> None:
    assert min(MACHINES, key=lambda name: MACHINES[name].usd_per_byte) == "h20-x8"
    assert min(MACHINES, key=lambda name: MACHINES[name].usd_per_flop) == "l40s-x8"
    capacity = {name: load_library().system(name).device.main.capacity.si / PRICE[name] for name in PRICE}
    assert max(capacity, key=lambda name: capacity[name]) == "h20-x8"
    assert capacity["h20-x8"] > 48e9  # L20


@pytest.mark.parametrize("context", [TRACE, 4096, 32_768])
def test_mixtral_wants_h20_for_attention_and_l40s_for_experts(
    context: int, analysed: Callable[[str], Graph]
) -> None:
    work = token_work(analysed("full.mixtral_8x22b.torch"), context, "bf16")
    assert cheapest(work, MACHINES) == ("h20-x8", "l40s-x8")


def test_in_fp8_the_choice_is_the_same(analysed: Callable[[str], Graph]) -> None:
    """A800 has no FP8 and computes at its bf16 rate."""
    machines = {name: Hourly.of(priced(name)) for name in PRICE}
    work = token_work(analysed("full.mixtral_8x22b.torch"), 4096, "fp8")
    assert cheapest(work, machines) == ("h20-x8", "l40s-x8")


def test_the_choice_is_a_matter_of_context(analysed: Callable[[str], Graph]) -> None:
    """Projections are arithmetic: with next to nothing in the cache attention, too, is cheapest on L40S."""
    work = token_work(analysed("full.mixtral_8x22b.torch"), 64, "bf16")
    assert cheapest(work, MACHINES) == ("l40s-x8", "l40s-x8")


def test_a_rate_that_nobody_declares_is_refused() -> None:
    with pytest.raises(TargetError, match=r"'a800-x8' declares no rate in fp8\."):
        Hourly.of(priced("a800-x8"), rates=("fp8",))
