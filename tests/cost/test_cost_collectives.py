"""Exchanges within and across scale-up domains, by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from disaggc.cost import Bill, Formats, Group, Work, work_time
from disaggc.cost.collectives import Span, all_reduce_s, all_to_all_s
from disaggc.ir import Cost, Expr, Point, Role, Routing
from disaggc.targets import load_library

LIBRARY = load_library()
H100 = LIBRARY.system("h100-x8")
"""Eight GPUs, 450 GB/s each within, 400 GB/s for all of them out; 1 us within, 3 us out, 3 us a launch."""
US = 1e-6
MB = np.asarray(1e6)


def exchange_us(span: Span, copies: int = 8) -> float:
    """100 tokens of 10 kB from each device."""
    return 1e6 * float(all_to_all_s(span, np.asarray(100.0), copies, 1e4))


def test_within_a_domain_only_the_scale_up_port_counts() -> None:
    span = Span(H100, 8)
    assert (span.domains, span.inside) == (1, 8)
    assert exchange_us(span) == pytest.approx(3 + 1 + 8e6 / 450e3)
    assert float(all_reduce_s(span, MB)) == pytest.approx(3 * US + 2 * US + 2 * 7 / 8 * 1e6 / 450e9)


def test_of_two_domains_each_token_crosses_once_if_any_of_its_experts_is_there() -> None:
    """1 MB x (1 - 1/256) at 400 / 8 = 50 GB/s, 8 MB at 450 GB/s; a launch and a hop on each link."""
    span = Span(H100, 16)
    assert span.domains == 2
    assert span.out_bytes_per_s == 50e9
    assert exchange_us(span) == pytest.approx(3 + 1 + 3 + 1e6 * 255 / 256 / 50e3 + 8e6 / 450e3)
    assert exchange_us(span, copies=1) == pytest.approx(7 + 1e6 / 2 / 50e3 + 1e6 / 450e3)


def test_of_four_domains_a_token_crosses_to_some_of_three() -> None:
    crossings = 3 * (1 - 0.75**8)
    assert exchange_us(Span(H100, 32)) == pytest.approx(7 + crossings * 1e6 / 50e3 + 8e6 / 450e3)


def test_crossings_are_the_expected_number_of_other_domains_by_brute_force() -> None:
    """Every way to pick 3 domains of 4 for 3 experts, seen from domain 0."""
    picks = list(itertools.product(range(4), repeat=3))
    mean = sum(len(set(pick) - {0}) for pick in picks) / len(picks)
    span = Span(H100, 32)
    assert exchange_us(span, copies=3) == pytest.approx(7 + mean * 1e6 / 50e3 + 3e6 / 450e3)


def test_a_group_that_fills_a_domain_and_a_bit_spreads_evenly_over_two() -> None:
    """80 GPUs of NVL72 are 40 and 40, not 72 and 8, whose eight would send nearly all away."""
    span = Span(LIBRARY.system("gb200-nvl72"), 80)
    assert (span.domains, span.inside) == (2, 40)
    assert span.out_bytes_per_s == 50e9
    assert exchange_us(span) == pytest.approx(7 + 1e6 * 255 / 256 / 50e3 + 8e6 / 900e3)


def test_an_all_reduce_over_two_domains_sends_an_eighth_across() -> None:
    """n = 8: 2 x 7/8 MB within; 1/8 MB each across, times 2 (2 - 1)/2; two hops on either link."""
    seconds = float(all_reduce_s(Span(H100, 16), MB))
    assert seconds == pytest.approx(3 * US + 2 * (1 + 3) * US + 1.75e6 / 450e9 + 0.125e6 / 50e9)


def test_a_domain_that_spans_systems_is_crossed_on_its_scale_up_links() -> None:
    """SN50: 256 of them are one domain of 16 racks; the 17th rack makes two."""
    rack = LIBRARY.system("sn50-rack")
    assert [Span(rack, n).domains for n in (16, 256, 272)] == [1, 1, 2]
    assert exchange_us(Span(rack, 256)) == pytest.approx(3 + 1.5 + 8e6 / 200e3)
    wider = 3 + 1.5 + 3 + 1e6 * 255 / 256 / (800e3 / 16) + 8e6 / 200e3
    assert exchange_us(Span(rack, 272)) == pytest.approx(wider)


def test_a_layer_latency_holds_the_hops_within_but_not_those_across() -> None:
    lpx = LIBRARY.system("groq3-lpx")
    out = lpx.scale_out.latency.si
    assert Span(lpx, 2304).fixed_s(2) == 0
    assert Span(lpx, 2560).fixed_s(2) == pytest.approx(2 * out)


def test_an_exchange_takes_no_less_time_over_more_domains() -> None:
    times = [exchange_us(Span(H100, 8 * n)) for n in range(1, 12)]
    assert times == sorted(times)
    assert times[1] > 1.5 * times[0]


def experts(width: int) -> Work:
    """128 experts, 8 for a token."""
    tokens = Expr.of("batch") * Expr.of("new")
    cost = Cost(flops=tokens, expert_elements={8: 1}, routing=Routing(128, 8), activation_in=tokens)
    return Work(Role.EXPERTS, Bill.of([cost]), 2, width, 0)


def test_experts_over_two_boxes_are_priced_over_the_link_between_them() -> None:
    """512 tokens of 4,096 in bf16 to 8 experts each, on 16 GPUs: 32 of 8 KiB a GPU."""
    point, formats = Point(np.asarray(512.0), 1, 1000), Formats("fp8", "fp8", "bf16")
    sent = 32 * 8192
    times = work_time(experts(4096), Group(H100, 2, 1, 16, 1), point, formats)
    expected = 2 * (7 * US + 8 * sent / 450e9 + sent * 255 / 256 / 50e9)
    assert float(times.collective) == pytest.approx(expected)
    one_domain = replace(H100, scale_up_devices=replace(H100.scale_up_devices, value=16))
    within = work_time(experts(4096), Group(one_domain, 2, 1, 16, 1), point, formats)
    assert float(within.collective) == pytest.approx(2 * (4 * US + 8 * sent / 450e9))


def test_partial_sums_over_two_boxes_are_priced_over_the_link_between_them() -> None:
    tokens = Expr.of("batch") * Expr.of("new")
    bill = Bill.of([Cost(flops=tokens, weight_elements={8: 1}, activation_in=tokens)])
    point, formats = Point(np.asarray(64.0), 1, 1000), Formats("fp8", "fp8", "bf16")
    times = work_time(Work(Role.FFN, bill, 2, 8192, 0), Group(H100, 2, 16, 1, 1), point, formats)
    held = np.asarray(64 * 8192 * 2.0)
    assert float(times.collective) == pytest.approx(float(all_reduce_s(Span(H100, 16), held)))
