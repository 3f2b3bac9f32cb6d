"""Seconds and bytes of every piece on every shape of a system, under every tier's load at once.

The arithmetic is ``Pricing``'s; what this adds is that whole grids of batches and all tiers go through
one call, and that a piece whose cost does not hang on the context is timed once for all tiers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from disaggc.cost import Array, Formats, Group, Work, format_bits, work_time
from disaggc.ir import BATCH, NEW, Point, Role
from disaggc.placement.pieces import Piece, Pieces
from disaggc.placement.pricing import PREFILL_CHUNK, Load, Pricing

Key = tuple[object, ...]


@dataclass(frozen=True)
class Standing:
    """What a shape holds whatever the tier, on one device, for each piece.

    Attributes:
        weights: Bytes, all layers; tied weights are with the first of their readers.
        slow_weights: Bytes of experts in slower memory.
        shares: The part of a piece's time that its busiest pipeline stage bears.
        logits: Bytes for each token that a replica has in flight.
        live: Bytes of activations likewise, of all pieces.
    """

    weights: Array
    slow_weights: Array
    shares: Array
    logits: Array
    live: float


@dataclass(frozen=True)
class Sheet:
    """One shape under one tier's load.

    Attributes:
        pricing: Its group alone, for what hangs on no batch.
        standing: What it holds whatever the tier.
        table, tier: Where its times come from, when asked for.
    """

    pricing: Pricing
    standing: Standing
    table: Timetable
    tier: int

    @cached_property
    def decode(self) -> Array:
        """(piece, batch): seconds of one micro-batch, all layers of a piece."""
        return np.asarray(self.table.decode(self.group)[self.tier])

    @cached_property
    def prefill(self) -> Array:
        """(piece,): seconds of one prompt."""
        return np.asarray(self.table.prefill(self.group)[self.tier])

    @property
    def group(self) -> Group:
        """The devices."""
        return self.pricing.groups[0]

    @property
    def usable(self) -> float:
        """Bytes of one device that may be filled."""
        return self.pricing.usable_bytes(0)

    @cached_property
    def prefill_busy_s(self) -> float:
        """Seconds that one prompt keeps the whole group from the next one."""
        apart = np.array([1 if p.work.bill.routing is not None else self.group.dp for p in self.pieces])
        return float((self.prefill * self.standing.shares / apart).sum())

    @cached_property
    def busy(self) -> Array:
        """(piece, batch): seconds of one micro-batch on the busiest pipeline stage."""
        return self.decode * self.standing.shares[:, None]

    @cached_property
    def cache(self) -> Array:
        """(piece,): bytes on one device for each request that a replica holds, in main memory."""
        return self._held(self.pricing.cache_bytes)

    @cached_property
    def slow_cache(self) -> Array:
        """(piece,): the same in slower memory."""
        if not self.group.spilled_cache:
            return np.zeros(len(self.pieces))
        return self._held(self.pricing.spilled_cache_bytes)

    def _held(self, kept: Callable[[Piece, int, Array, int], Array]) -> Array:
        one = np.asarray(float(self.group.dp))
        return np.array([float(kept(p, 0, one, 1)) if p.has_state else 0.0 for p in self.pieces])

    def transient_bytes(self, requests: Array) -> Array:
        """Bytes of activations and logits on one device, with so many requests in flight on a replica."""
        load = self.pricing.load
        tokens = requests * load.step_tokens
        live = self.standing.live * np.maximum(tokens, min(load.input_tokens, PREFILL_CHUNK))
        return np.asarray(live + self.standing.logits.sum() * tokens)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What is timed."""
        return self.pricing.pieces.pieces


class Timetable:
    """Sheets of any group, made when asked for; equal parallelism is timed once.

    Args:
        pieces: The folded model.
        loads: One for each tier.
        formats: Serving formats.
        batches: (batch,): requests of a micro-batch.
    """

    def __init__(self, pieces: Pieces, loads: Sequence[Load], formats: Formats, batches: Array) -> None:
        self.pieces = pieces
        self.loads = tuple(loads)
        self.formats = formats
        self.batches = batches
        self._decode: dict[Key, Array] = {}
        self._prefill: dict[Key, Array] = {}
        self._standing: dict[Key, Standing] = {}

    def sheet(self, group: Group, tier: int) -> Sheet:
        """A group under the load of a tier."""
        pricing = Pricing(self.pieces, (group,), self.loads[tier], self.formats)
        return Sheet(pricing, self.standing(group), self, tier)

    def standing(self, group: Group) -> Standing:
        """What a group holds whatever the tier."""
        key = _alike(group)
        if key not in self._standing:
            self._standing[key] = _standing(Pricing(self.pieces, (group,), self.loads[0], self.formats))
        return self._standing[key]

    def decode(self, group: Group) -> Array:
        """(tier, piece, batch): seconds of one micro-batch."""
        key = _alike(group)
        if key not in self._decode:
            timed = [self._decode_times(piece.work, group) * piece.count for piece in self.pieces.pieces]
            self._decode[key] = np.stack(timed, axis=1)
        return self._decode[key]

    def _decode_times(self, work: Work, group: Group) -> Array:
        """(tier, batch): those of equal steps are timed once where the context plays no part."""
        steps = np.array([[float(load.step_tokens)] for load in self.loads])
        cached = np.array([[float(load.decode_cached)] for load in self.loads])
        if not _depends_on_context(work) and len(set(steps[:, 0])) == 1:
            steps, cached = steps[:1], cached[:1]
        found = work_time(work, group, Point(self.batches, steps, cached), self.formats).total
        return np.broadcast_to(found, (len(self.loads), len(self.batches)))

    def prefill(self, group: Group) -> Array:
        """(tier, piece): seconds of one prompt; a head computes its last token alone."""
        key = _alike(group)
        if key not in self._prefill:
            timed = [self._prefill_times(piece, group) * piece.count for piece in self.pieces.pieces]
            self._prefill[key] = np.stack(timed, axis=1)
        return self._prefill[key]

    def _prefill_times(self, piece: Piece, group: Group) -> Array:
        new = np.array([1.0 if piece.role is Role.HEAD else float(load.input_tokens) for load in self.loads])
        cached = np.array([float(load.cached_tokens) for load in self.loads])
        one = np.ones(len(self.loads))
        found = work_time(piece.work, group, Point(one, new, cached), self.formats).total
        return np.broadcast_to(found, (len(self.loads),))

    def edge_bytes(self, tier: int) -> Array:
        """(edge, batch): bytes of each edge's tensors in one step of a micro-batch, all layers."""
        load, pieces = self.loads[tier], self.pieces
        point = Point(self.batches, load.step_tokens, load.decode_cached)
        each = format_bits(self.formats.activations, pieces.activation_bits) / 8
        counted = [(e.elements.evaluate(point), 0 if e.message else e.count) for e in pieces.edges]
        return np.array([np.broadcast_to(n * times * each, self.batches.shape) for n, times in counted])


def _standing(pricing: Pricing) -> Standing:
    pieces, group, load = pricing.pieces.pieces, pricing.groups[0], pricing.load
    weights = np.array([pricing.weight_bytes(p, 0) for p in pieces])
    for tie in pricing.pieces.ties:
        weights[list(tie.pieces[1:])] -= pricing.tie_bytes(tie, 0)
    one = np.asarray(float(group.dp))
    return Standing(
        np.maximum(weights, 0.0),
        np.array([pricing.spilled_weight_bytes(p, 0) for p in pieces]),
        np.array([pricing.pipeline_share(p, 0) for p in pieces]),
        np.array([float(pricing.logits_bytes(p, 0, one, 1)) / load.step_tokens for p in pieces]),
        pricing.live_bytes(0),
    )


def _depends_on_context(work: Work) -> bool:
    bill = work.bill
    parts = (bill.flops, bill.activation_in, bill.activation_out, bill.state_read, bill.state_write)
    return any(part.symbols - {BATCH, NEW} for part in parts)


def _alike(group: Group) -> Key:
    """What the time of a group hangs on: not how much is set aside for it."""
    return (group.system.name, group.tp, group.dp, group.pp, group.spilled_experts, group.spilled_cache)


def batch_grid(replicas: Sequence[int], most: int) -> Array:
    """(batch,): every number of requests that some number of replicas can hold evenly."""
    found = {r * dp for dp in replicas for r in requests_grid(most // dp)}
    return np.array(sorted(found), dtype=np.float64)


@functools.cache
def requests_grid(most: int) -> tuple[int, ...]:
    """Requests that one replica holds in a micro-batch: all up to 8, then four to each doubling."""
    steps = (int(2**e * f) for e in range(3, 20) for f in (1.0, 1.25, 1.5, 1.75))
    return tuple(r for r in (*range(1, 8), *steps) if r <= max(1, most))
