"""A decoder of four pieces and two small machines, made by hand: few enough plans to try every one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from disaggc.cost import Bill, Formats, Group, Work
from disaggc.ir import Cost, Expr, Role, Routing
from disaggc.placement import Piece, Pieces, Request, evaluate
from disaggc.placement.flows import Edge
from disaggc.placement.modes import Mode
from disaggc.placement.pricing import Limits, Load, Pricing
from disaggc.placement.search import Answer, Configuration, groups_of
from disaggc.targets import Figure, System, load_library

ANY = Mode("any mode")
FP8 = Formats("fp8", "fp8", "bf16")
WIDTH = 4096
HEADS = 8
TOKENS = Expr.of("batch") * Expr.of("new")
CACHE = Expr.of("batch") * (Expr.of("cached") + Expr.of("new"))
LIBRARY = load_library()


def scaled(figure: Figure, factor: float) -> Figure:
    """The figure times a factor, without its interval."""
    return replace(figure, value=figure.value * factor, low=None, high=None)


def rack(name: str, devices: int) -> System:
    """A shipped system cut down to a few devices."""
    system = LIBRARY.system(name)
    count = scaled(system.count, devices / system.count.value)
    domain = scaled(system.scale_up_devices, devices / system.scale_up_devices.value)
    return replace(system, count=count, scale_up_devices=domain, quantum=devices)


def with_sram(system: System, factor: float) -> System:
    """The system with ``factor`` times as much of its fastest memory."""
    first, *rest = system.device.memories
    memories = (replace(first, capacity=scaled(first.capacity, factor)), *rest)
    return replace(system, device=replace(system.device, memories=memories))


def with_slower_link(system: System, factor: float) -> System:
    """The system with a scale-out link of ``factor`` times the latency and as much less bandwidth."""
    link = system.scale_out
    slower = replace(
        link,
        latency=scaled(link.latency, factor),
        bandwidth_one_way=scaled(link.bandwidth_one_way, 1 / factor),
        bandwidth_both_ways=None,
    )
    return replace(system, scale_out=slower)


def decoder(ffn: int = 40_000_000, routing: Routing | None = None, other: int = 8_000_000) -> Pieces:
    """QKV, core attention and FFN (or experts) of eight equal layers, then a head."""
    layers, heads_width = 8, 2 * HEADS * 128
    pieces = (
        _piece(0, Role.QKV, layers, _bill(other)),
        _piece(1, Role.CORE_ATTENTION, layers, _bill(0, cache=heads_width), heads_width),
        _piece(2, Role.FFN if routing is None else Role.EXPERTS, layers, _bill(ffn, routing=routing)),
        _piece(3, Role.HEAD, 1, _bill(6 * other)),
    )
    flows = ((0, (1,), layers), (1, (2,), layers), (2, (0, 3), layers))
    edges = [Edge(s, r, TOKENS * Expr.of(WIDTH), n, message=False) for s, r, n in flows]
    edges += [Edge(s, r, Expr(), n, message=True) for s, r, n in flows]
    return Pieces(pieces, tuple(edges), {i: i for i in range(4)}, layers, 8, 16)


def _piece(i: int, role: Role, count: int, bill: Bill, kv: int = 0) -> Piece:
    key = (0 if count > 1 else -1, i, role.value)
    return Piece(key, role, count, (i,), Work(role, bill, 2, WIDTH, HEADS if kv else 0), kv, 0)


def _bill(weights: int, cache: int = 0, routing: Routing | None = None) -> Bill:
    share = 1.0 if routing is None else routing.chosen / routing.experts
    plain, experts = ({16: weights}, {}) if routing is None else ({}, {16: weights})
    cost = Cost(
        flops=TOKENS * Expr.of(2 * weights * share) + CACHE * Expr.of(2 * cache),
        weight_elements=plain if weights else {},
        expert_elements=experts,
        routing=routing,
        activation_in=TOKENS * Expr.of(WIDTH),
        activation_out=TOKENS * Expr.of(WIDTH),
        state_read=CACHE * Expr.of(cache),
        state_write=TOKENS * Expr.of(cache),
    )
    return Bill.of([cost], 8, 16)


def request(
    fleet: tuple[tuple[System, int], ...],
    pieces: Pieces | None = None,
    load: Load | None = None,
    limits: Limits | None = None,
) -> Request:
    """A search over two batches and two numbers of micro-batches."""
    return Request(
        pieces or decoder(),
        fleet,
        load or Load(500, 7_000, 500, 8_000),
        FP8,
        limits or Limits(1 / 20, 10.0),
        batches=(4, 32),
        micro_batches=(1, 3),
    )


def every_answer(wanted: Request) -> Iterator[Answer]:
    """Every feasible plan of a request, by trying all groups, batches and assignments."""
    for groups in _every_groups(wanted):
        pricing = Pricing(wanted.pieces, groups, wanted.load, wanted.formats)
        for batch, m in itertools.product(wanted.batches, wanted.micro_batches):
            configuration = Configuration(pricing, batch, m, 0.0)
            problem = configuration.problem(wanted.limits, ANY)
            for assignment in itertools.product(*problem.allowed):
                verdict = evaluate(problem, assignment)
                if verdict.feasible:
                    rate = configuration.tokens_per_s(verdict.objective)
                    yield Answer(configuration, assignment, verdict.objective, rate)


def _every_groups(wanted: Request) -> Iterator[tuple[Group, ...]]:
    choices = [groups_of(system, count, wanted.pieces.layers) for system, count in wanted.fleet]
    for group in itertools.chain(*choices):
        yield (group,)
    for first, second in itertools.combinations(choices, 2):
        yield from itertools.product(first, second)
