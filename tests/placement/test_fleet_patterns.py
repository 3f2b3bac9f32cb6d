"""Patterns are priced as their exact problem prices them, fit their machines, and queue as M/D/1 says."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from fleets import HBM, LOAD, SRAM, small_wanted, tier
from made import FP8, decoder, rack, scaled, with_slower_link

from disaggc.cost import Group
from disaggc.ir import Role, Routing
from disaggc.placement.check import evaluate
from disaggc.placement.fleet.columns import Column
from disaggc.placement.fleet.cuts import cuts_of
from disaggc.placement.fleet.demand import Wanted
from disaggc.placement.fleet.deploy import deployment
from disaggc.placement.fleet.queueing import BUSIEST, paced, shared_ttft, utilisation_for, wait_s
from disaggc.placement.fleet.shapes import groups_in, nested_sizes, packs, sizes_of, splits
from disaggc.placement.fleet.space import Space
from disaggc.placement.formulation import PICO, STEP_OVERHEAD_S, step_overhead_s, write_problem
from disaggc.placement.pricing import Limits, Pricing
from disaggc.targets import System

RDU = rack("sn50-rack", 4)
MIXTURE = decoder(ffn=120_000_000, routing=Routing(64, 4))


@pytest.mark.parametrize(("devices", "sizes"), [(72, (1, 2, 4, 8, 24, 72)), (8, (1, 2, 4, 8)), (1, (1,))])
def test_nested_sizes_divide_each_other_and_keep_powers_of_two_at_the_small_end(
    devices: int, sizes: tuple[int, ...]
) -> None:
    assert nested_sizes(devices) == sizes


@pytest.mark.parametrize("name", ["vr-nvl72", "trn3-ultra", "sn50-rack", "cs3"])
def test_every_size_divides_the_next_one(name: str) -> None:
    sizes = sizes_of(rack(name, 12), 3)
    inside = [s for s in sizes if s <= 12]
    assert all(b % a == 0 for a, b in itertools.pairwise(inside))
    assert all(s % 12 == 0 for s in sizes if s > 12)


def _fits(devices: int, bins: int, items: list[int]) -> bool:
    """Bin packing by trying everything."""

    def place(rest: list[int], room: tuple[int, ...]) -> bool:
        if not rest:
            return True
        item, *others = rest
        if item > devices:
            whole = [i for i, r in enumerate(room) if r == devices]
            k = item // devices
            return len(whole) >= k and place(
                others, tuple(0 if i in whole[:k] else r for i, r in enumerate(room))
            )
        return any(
            place(others, (*room[:i], room[i] - item, *room[i + 1 :])) for i in range(bins) if room[i] >= item
        )

    return place(sorted(items, reverse=True), (devices,) * bins)


def test_replicas_of_nested_sizes_fit_exactly_if_the_sums_do() -> None:
    system = rack("vr-nvl72", 12)
    sizes = sizes_of(system, 2)
    for counts in itertools.product(range(3), repeat=len(sizes)):
        replicas = {size: n for size, n in zip(sizes, counts, strict=True) if n}
        items = [size for size, n in replicas.items() for _ in range(n)]
        assert packs(system, 2, replicas) == _fits(12, 2, items), replicas


WIDE = replace(SRAM, scale_up_devices=scaled(SRAM.scale_up_devices, 4.0))
"""Racks whose scale-up domain spans four of them."""


@pytest.mark.parametrize("system", [HBM, SRAM, RDU, WIDE], ids=["hbm", "sram", "rdu", "wide sram"])
def test_a_shape_uses_no_more_devices_than_are_set_aside(system: System) -> None:
    for size in sizes_of(system, 3):
        groups = list(groups_in(system, size, 8))
        assert groups
        assert all(1 <= g.devices <= size == g.reserved for g in groups)


def test_splits_part_all_devices_in_any_ratio() -> None:
    found = list(splits(HBM, 8))
    assert all(a + f == 8 and a and f for a, f in found)
    assert {(7, 1), (1, 7), (4, 4), (6, 2)} <= set(found), "A:F of 7:1, 1:7 (fewer than one), 1:1 and 3:1"


def test_cuts_keep_core_attention_home_and_feed_forward_away() -> None:
    cuts = cuts_of(MIXTURE)
    roles = [piece.role for piece in MIXTURE.pieces]
    assert len(cuts) > 1
    assert (cuts.away[:, roles.index(Role.CORE_ATTENTION)] == 0).all()
    assert (cuts.away[:, roles.index(Role.EXPERTS)] == 1).all()


def _wanted() -> Wanted:
    tiers = (tier("slow", 1.0, speed=10.0), tier("fast", 9.0, speed=150.0))
    fleet = ((HBM, 1), (SRAM, 2), (RDU, 1))
    wanted = small_wanted(fleet, tiers)
    return Wanted(MIXTURE, wanted.fleet, tiers, FP8)


def _step_s(pricing: Pricing, batch: int, micro_batches: int, sides: tuple[int, ...]) -> tuple[float, bool]:
    """Seconds of a step of decode alone by the formulation's rows, and whether its memory rows hold.

    Answers that grow by next to nothing in a step take so many steps that no share of prompts falls to one.
    """
    alone = replace(pricing, load=replace(pricing.load, accepted=1e-12))
    places = ((0, 1),) * 2 * len(sides)
    problem = write_problem(alone, batch, micro_batches, Limits(None, None), places)
    verdict = evaluate(problem, (*sides, *sides))
    return verdict.objective / PICO + step_overhead_s(pricing.groups), verdict.feasible


def _pricing(wanted: Wanted, column: Column) -> Pricing:
    joined = len(column.uses) == 1 and len(column.groups) == 2
    load = wanted.tiers[column.tier].load
    return Pricing(wanted.pieces, column.groups, load, wanted.formats, joined=joined)


def _sides(space: Space, column: Column) -> tuple[int, ...]:
    return space.cuts.assignment(column.cut, 0, 1) if column.cut >= 0 else (0,) * len(MIXTURE.pieces)


def test_a_column_is_priced_as_its_own_problem_prices_the_same_cut() -> None:
    """The grid and the formulation are two ways to one number."""
    wanted = _wanted()
    space = Space(wanted)
    columns = [c for c in space.priced().columns.values() if c.form == "decode"]
    assert {len(c.groups) for c in columns} == {1, 2}
    for column in columns:
        step, _ = _step_s(_pricing(wanted, column), column.batch, column.micro_batches, _sides(space, column))
        assert step == pytest.approx(column.step_s, rel=1e-6), column.mode


def _occupying(system: System, message_us: float, step_us: float) -> System:
    """The system with messages that occupy their ends, and an engine's time of a step of its own."""
    latency = system.scale_up.latency
    occupancy, step = (
        replace(latency, value=value, unit="us", low=None, high=None) for value in (message_us, step_us)
    )
    scale_up = replace(system.scale_up, occupancy=occupancy)
    scale_out = replace(system.scale_out, occupancy=occupancy)
    return replace(system, scale_up=scale_up, scale_out=scale_out, step_overhead=step)


def test_so_is_one_whose_messages_occupy_their_ends() -> None:
    tiers = (tier("slow", 1.0, speed=10.0),)
    systems = (_occupying(HBM, 5.0, 20.0), _occupying(SRAM, 2.0, 90.0))
    fleet = tuple((system, 1) for system in systems)
    wanted = Wanted(MIXTURE, small_wanted(fleet, tiers).fleet, tiers, FP8)
    space = Space(wanted)
    columns = [c for c in space.priced().columns.values() if c.form == "decode"]
    assert {len(c.groups) for c in columns} == {1, 2}
    for column in columns:
        step, _ = _step_s(_pricing(wanted, column), column.batch, column.micro_batches, _sides(space, column))
        assert step == pytest.approx(column.step_s, rel=1e-6), column.mode


def test_no_other_batch_of_the_same_pattern_serves_much_more() -> None:
    """Columns take the most requests of a grid that fit and meet the tier; every number between is tried."""
    wanted = _wanted()
    space = Space(wanted)
    columns = [c for c in space.priced().columns.values() if len(c.groups) == 2]
    for column in columns[:: max(1, len(columns) // 10)]:
        load, limit = wanted.tiers[column.tier].load, wanted.tiers[column.tier].limits.tpot_s
        dp, m = column.groups[0].dp, column.micro_batches
        assert limit is not None
        for batch in range(dp, 2 * column.batch, dp * max(1, column.batch // dp // 20)):
            step, fits = _step_s(_pricing(wanted, column), batch, m, _sides(space, column))
            if fits and step <= limit:
                rate = batch * m / (step * load.steps)
                assert rate <= column.requests_per_s * 1.25, "a point of the grid lies within a quarter"


@pytest.mark.parametrize("slower", [1.0, 100.0])
def test_every_column_holds_up_when_its_cut_is_solved_exactly(slower: float) -> None:
    """With links that bring caches all the time, too."""
    plain = _wanted()
    wanted = replace(plain, fleet=tuple((with_slower_link(s, slower), n) for s, n in plain.fleet))
    book = Space(wanted).priced()
    feeders = {(c.tier, c.home): c for c in book.columns.values() if c.form == "prefill"}
    chosen = [c for c in book.columns.values() if c.form != "prefill"]
    assert {c.form for c in chosen} == {"decode", "whole"}
    for column in chosen[:: max(1, len(chosen) // 40)]:
        feeder = feeders[column.tier, column.home] if column.form == "decode" else None
        made = deployment(wanted, column, feeder, 1)
        exact = made.decision.answer.objective / PICO + STEP_OVERHEAD_S
        load = wanted.tiers[column.tier].load
        full = column.batch * column.micro_batches / (column.requests_per_s * load.steps)
        assert exact <= max(column.step_s, full) * (1 + 1e-6)


def test_links_that_bring_all_caches_leave_requests_undecoded() -> None:
    """The case above is one: some columns serve what their links take in, and could decode more."""
    plain = _wanted()
    slow = replace(plain, fleet=tuple((with_slower_link(s, 100.0), n) for s, n in plain.fleet))
    decode = [c for c in Space(slow).priced().columns.values() if c.form == "decode"]
    loads = [slow.tiers[c.tier].load for c in decode]
    full = [
        c.batch * c.micro_batches / (c.requests_per_s * x.steps) for c, x in zip(decode, loads, strict=True)
    ]
    assert any(f > c.step_s * 1.001 for f, c in zip(full, decode, strict=True))


def test_spilling_costs_time_and_frees_memory() -> None:
    plain, spilled = Group(RDU, 1, 1, 4, 1, 4), Group(RDU, 1, 1, 4, 1, 4, spilled_experts=0.5)
    experts = next(p for p in MIXTURE.pieces if p.role is Role.EXPERTS)
    a, b = (Pricing(MIXTURE, (g,), LOAD, FP8) for g in (plain, spilled))
    assert b.weight_bytes(experts, 0) == pytest.approx(a.weight_bytes(experts, 0) / 2)
    assert b.spilled_weight_bytes(experts, 0) == pytest.approx(a.weight_bytes(experts, 0) / 2)
    fast, slow = (p.decode_times(experts, 0, 64) for p in (a, b))
    ratio = RDU.device.main.bandwidth.si / RDU.device.memory("ddr").bandwidth.si
    assert float(slow.memory) / float(fast.memory) == pytest.approx(1 + 0.5 * (ratio - 1), rel=0.05)


@pytest.mark.parametrize("busy", [0.1, 0.5, 0.9])
def test_the_wait_is_that_of_a_queue_with_fixed_service(busy: float) -> None:
    """Lindley's recursion with Poisson arrivals, against Pollaczek-Khinchine."""
    draw, service = np.random.default_rng(7), 2.0
    gaps = draw.exponential(service / busy, 400_000)
    wait, total = 0.0, 0.0
    for gap in gaps:
        wait = max(0.0, wait + service - gap)
        total += wait
    assert float(wait_s(np.asarray(service), np.asarray(busy))) == pytest.approx(total / len(gaps), rel=0.05)


def test_the_utilisation_for_a_wait_gives_that_wait() -> None:
    for allowed in (0.1, 1.0, 5.0):
        busy = utilisation_for(np.asarray(2.0), np.asarray(allowed))
        assert float(wait_s(np.asarray(2.0), busy)) == pytest.approx(
            min(allowed, 2.0 * BUSIEST / (2 * (1 - BUSIEST)))
        )
    assert float(utilisation_for(np.asarray(2.0), np.asarray(-1.0))) == 0.0


def test_a_paced_step_is_the_shortest_that_starts_prompts_in_time() -> None:
    decode, prefill = np.asarray([0.01, 0.002]), np.asarray([0.004, 0.001])
    least = decode + prefill
    step = paced(0.5, least, decode, prefill, 2.0)
    assert shared_ttft(0.5, step, decode, prefill) == pytest.approx([2.0, 2.0], rel=1e-9)
    assert (shared_ttft(0.5, step * 0.99, decode, prefill) > 2.0).all()
    assert np.isinf(paced(0.5, least, decode, prefill, 0.4)).all()
