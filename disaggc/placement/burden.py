"""What roles and ops of the chosen plan put on one device: flops, bytes, seconds, memory.

The busiest device of a pool is meant, for one micro-batch of decode or one prompt of prefill, as in
``cost.roofline``: what a roofline of that device needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from disaggc.cost import Bill, Times, Work, compute_format, per_device
from disaggc.ir import Cost, Graph, Phase, Point, Role
from disaggc.placement.decide import Decision
from disaggc.placement.pieces import Piece
from disaggc.placement.pricing import Pricing
from disaggc.placement.search import Answer
from disaggc.placement.stages import PARTS
from disaggc.plans import RoleLoad

US = 1e6
DIGITS = 9
"""Significant digits of flops and bytes in ops.csv, as in plan.json."""


def role_loads(decision: Decision) -> tuple[RoleLoad, ...]:
    """One row for each phase, role and pool, in execution order."""
    pieces, answer = decision.request.pieces.pieces, decision.answer
    names = answer.configuration.pricing.names
    found: dict[tuple[Phase, str, int], list[Piece]] = {}
    for phase, offset in ((Phase.PREFILL, 0), (Phase.DECODE, len(pieces))):
        for i, piece in enumerate(pieces):
            key = (phase, piece.role.value, answer.assignment[offset + i])
            found.setdefault(key, []).append(piece)
    return tuple(
        _role_load(answer, phase, names[place], place, members)
        for (phase, _, place), members in found.items()
    )


def _role_load(answer: Answer, phase: Phase, pool: str, place: int, members: list[Piece]) -> RoleLoad:
    pricing = answer.configuration.pricing
    flops = moved = 0.0
    for piece in members:
        work, bytes_ = _amounts(answer, piece.work, place, phase)
        flops, moved = flops + piece.count * work, moved + piece.count * bytes_
    times = _times(answer, phase, place, members)
    return RoleLoad(
        phase=phase.value,
        role=members[0].role.value,
        pool=pool,
        count=sum(piece.count for piece in members),
        flops=flops,
        bytes=moved,
        time_us=float(times.total) * US,
        bottleneck=times.bottleneck(),
        arithmetic=compute_format(members[0].work.bill, pricing.formats),
        weight_bytes=sum(pricing.weight_bytes(piece, place) for piece in members),
        cache_bytes=_cache_bytes(answer, place, members) if phase is Phase.DECODE else 0.0,
    )


def _times(answer: Answer, phase: Phase, place: int, members: list[Piece]) -> Times:
    pricing, batch = answer.configuration.pricing, answer.configuration.batch
    sums = dict.fromkeys((*PARTS, "total"), 0.0)
    for piece in members:
        if phase is Phase.DECODE:
            times = pricing.decode_times(piece, place, batch)
        else:
            times = pricing.prefill_times(piece, place)
        for name in sums:
            sums[name] += piece.count * float(getattr(times, name))
    return Times(**{name: np.asarray(value) for name, value in sums.items()})


def _cache_bytes(answer: Answer, place: int, members: list[Piece]) -> float:
    configuration = answer.configuration
    batch = np.asarray(float(configuration.batch))
    kept = (
        configuration.pricing.cache_bytes(piece, place, batch, configuration.micro_batches)
        for piece in members
    )
    return sum(float(held) for held in kept)


def _amounts(answer: Answer, work: Work, place: int, phase: Phase) -> tuple[float, float]:
    """Flops and bytes on the busiest device of a place."""
    pricing = answer.configuration.pricing
    point = _point(pricing, work.role, answer.configuration.batch, phase)
    flops, moved = per_device(work, pricing.groups[place], point, pricing.formats)
    return float(flops), float(moved)


def _point(pricing: Pricing, role: Role, batch: int, phase: Phase) -> Point:
    """The workload that a role is priced at; a head computes the last token of a prompt alone."""
    load = pricing.load
    if phase is Phase.DECODE:
        return Point(np.asarray(float(batch)), load.step_tokens, load.decode_cached)
    tokens = 1 if role is Role.HEAD else load.input_tokens
    return Point(np.asarray(1.0), tokens, load.cached_tokens)


@dataclass(frozen=True, slots=True)
class OpLoad:
    """Flops and bytes of one op on one device."""

    flops: float
    bytes: float


class OpLoads:
    """Flops and bytes of every op of a graph, on the busiest device of its pool.

    Args:
        graph: Analysed; ops of equal costs are worked out once.
        decision: The chosen plan.
    """

    def __init__(self, graph: Graph, decision: Decision) -> None:
        pieces = decision.request.pieces
        self._graph = graph
        self._answer = decision.answer
        self._piece_of = {
            node: pieces.pieces[pieces.piece_of[segment.index]]
            for segment in graph.segments
            if segment.index in pieces.piece_of
            for node in segment.nodes
        }
        self._known: dict[tuple[int, Role, int, Phase], OpLoad] = {}

    def of(self, node: int, place: int, phase: Phase) -> OpLoad | None:
        """What an op takes there; None for what has no price (masks, positions, extents)."""
        piece = self._piece_of.get(node)
        if piece is None:
            return None
        cost = self._graph.costs[node]
        key = (id(cost), piece.role, place, phase)
        if key not in self._known:
            self._known[key] = self._worked_out(piece, cost, place, phase)
        return self._known[key]

    def _worked_out(self, piece: Piece, cost: Cost, place: int, phase: Phase) -> OpLoad:
        bill = piece.work.bill
        alone = Bill.of([cost], bill.state_bits, bill.activation_bits)
        # The whole role's routing: how its tokens are spread does not hang on which op is asked for.
        work = replace(piece.work, bill=replace(alone, routing=bill.routing))
        return OpLoad(*_amounts(self._answer, work, place, phase))
