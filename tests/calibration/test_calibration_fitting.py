"""Constants come out of times that were made from them."""

from __future__ import annotations

import functools

import pytest
from known_machine import KERNELS, reading

from disaggc.calibration import Kernels, Reading, Steps, fit_kernels, fit_messages
from disaggc.calibration.fitting import minimised
from disaggc.calibration.probing import kernel_probes, spread, undisturbed
from disaggc.errors import ExecutorError


@functools.cache
def made_readings() -> tuple[Reading, ...]:
    """The graphs of a real calibration with the known machine's times."""
    return tuple(reading(p.kind, p.nodes, p.flops, p.bytes, **p.others) for p in kernel_probes())


@functools.cache
def fitted() -> Kernels:
    return fit_kernels(made_readings())


def test_known_constants_come_out_of_their_times() -> None:
    found = fitted()
    assert found.main_bytes_per_s == pytest.approx(KERNELS.main_bytes_per_s, rel=0.05)
    assert found.sharpness == pytest.approx(KERNELS.sharpness, rel=0.05)
    assert found.node == pytest.approx(KERNELS.node, rel=0.1)
    assert found.flops_per_s["gemm"] == pytest.approx(KERNELS.flops_per_s["gemm"], rel=0.05)
    assert found.bytes_per_s["gemm"] == pytest.approx(KERNELS.bytes_per_s["gemm"], rel=0.05)
    assert found.flops_per_s["attention"] == pytest.approx(KERNELS.flops_per_s["attention"], rel=0.1)
    assert found.bytes_per_s["moe"] == pytest.approx(KERNELS.bytes_per_s["moe"], rel=0.1)


def test_a_fit_says_how_far_it_is_off() -> None:
    assert max(fitted().errors.values()) < 0.02
    bent = [
        Reading(r.name, r.kind, r.nodes, r.flops, r.bytes, r.resident, r.seconds * (1.3 if i % 2 else 0.8))
        for i, r in enumerate(made_readings())
    ]
    assert fit_kernels(bent).errors["gemm"] > 0.05


def test_the_cache_ends_where_streaming_slows_down() -> None:
    assert fitted().cache_bytes == KERNELS.cache_bytes


def test_where_nothing_streams_slower_no_cache_ends() -> None:
    found = fit_kernels([r for r in made_readings() if r.kind != "gemm" or r.resident <= KERNELS.cache_bytes])
    assert found.main_bytes_per_s == found.bytes_per_s["gemm"]


def test_kinds_without_a_kernel_are_left_out() -> None:
    found = fit_kernels([r for r in made_readings() if r.kind != "moe"])
    assert "moe" not in found.flops_per_s
    assert "moe" not in found.node


def test_without_products_nothing_is_known() -> None:
    with pytest.raises(ExecutorError, match="No matrix product could be timed"):
        fit_kernels([r for r in made_readings() if r.kind != "gemm"])


WAKING = 60e-6


def made_steps(occupancy: float, latency: float, local: float = 4e-6, engine: float = 30e-6) -> Steps:
    """A decoder of 12 messages a step; its executors take 90 and 60 us of kernels, the second one leads."""
    hops, kernels = 12, {"first": 90e-6, "second": 60e-6}
    whole = sum(kernels.values()) + engine
    busy = {pool: inside + hops * occupancy for pool, inside in kernels.items()}
    busy["second"] += engine
    return Steps(
        hops=hops,
        whole=whole,
        inside=whole - engine,
        split=whole + 2 * hops * local,
        alone=whole + hops * (latency + 2 * occupancy),
        asleep=whole + hops * (latency + WAKING + 2 * occupancy),
        crowded=max(busy.values()),
        pools=kernels,
        lead="second",
    )


@pytest.mark.parametrize(("occupancy", "latency"), [(10e-6, 5e-6), (3e-6, 40e-6), (0.0, 8e-6)])
def test_occupancy_and_latency_of_a_message_come_out_of_its_steps(occupancy: float, latency: float) -> None:
    found = fit_messages(made_steps(occupancy, latency), call=2e-6)
    assert found.occupancy == pytest.approx(occupancy, abs=1e-12)
    assert found.latency == pytest.approx(latency, abs=1e-12)
    assert found.woken == pytest.approx(latency + WAKING, abs=1e-12)
    assert found.local == pytest.approx(4e-6)
    assert found.step == pytest.approx(32e-6)


def test_noise_makes_no_message_take_less_than_nothing() -> None:
    pools = {"first": 90e-6, "second": 60e-6}
    lucky = Steps(12, 150e-6, 160e-6, 140e-6, 145e-6, 140e-6, 80e-6, pools, "second")
    found = fit_messages(lucky, call=2e-6)
    assert (found.local, found.occupancy, found.latency, found.woken) == (0.0, 0.0, 0.0, 0.0)
    assert found.step == pytest.approx(2e-6)


def test_one_core_tells_nothing_of_messages_between_processes() -> None:
    found = fit_messages(Steps(12, 150e-6, 120e-6, 200e-6), call=2e-6)
    assert (found.occupancy, found.latency) == (None, None)


def test_the_nearest_minimum_is_found_over_orders_of_magnitude() -> None:
    found = minimised(lambda v: (v[0] / 3e-6 - 1) ** 2 + (v[1] / 7e9 - 1) ** 2, [1e-9, 1e12])
    assert found == pytest.approx([3e-6, 7e9], rel=0.01)


def test_what_others_take_of_a_machine_is_left_out() -> None:
    assert undisturbed([10, 10, 11, 30, 50]) == 10
    assert spread([10, 10, 10, 10, 50]) == 0
    assert spread([10, 12, 14, 16, 18]) == pytest.approx(4 / 14)
