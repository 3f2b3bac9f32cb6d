"""Prices pieces on groups of devices: seconds of compute and transfer, bytes of memory.

What is priced here is put together into one problem by ``formulation``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from disaggc.cost import (
    Array,
    Formats,
    Group,
    Times,
    cache_split,
    format_bits,
    requests_per_replica,
    work_time,
)
from disaggc.ir import Phase, Point, Role
from disaggc.placement.flows import Edge
from disaggc.placement.pieces import Piece, Pieces, Tie

RESERVE = 0.1
"""Share of each memory that is kept free: runtime, fragmentation, program text; inferred (vLLM's default)."""
LIVE_VALUES = 4
"""Activations of the widest piece that live at once: its input, two inner values and its output; inferred."""
PREFILL_CHUNK = 8192
"""Tokens of a prompt that are in flight at once, for activation memory (chunked prefill)."""


@dataclass(frozen=True, slots=True)
class Load:
    """What requests look like.

    Attributes:
        input_tokens: Tokens of a prompt that are computed anew.
        cached_tokens: Tokens of a prompt that a prefix cache supplies.
        output_tokens: Tokens of an answer.
        context_tokens: Tokens that memory is reserved for.
        step_tokens: Tokens of a request that one decode step computes: 1, or those that it verifies.
        accepted: Tokens that an answer grows by in a step, on average.
    """

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    context_tokens: int
    step_tokens: int = 1
    accepted: float = 1.0

    @property
    def steps(self) -> float:
        """Decode steps of an answer."""
        return self.output_tokens / self.accepted

    @property
    def decode_cached(self) -> int:
        """Tokens in the cache in the middle of an answer."""
        return self.input_tokens + self.cached_tokens + self.output_tokens // 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What the tier demands: seconds per decode step and to the first token; None for no demand."""

    tpot_s: float | None
    ttft_s: float | None
    memory: bool = True


@dataclass(frozen=True)
class Pricing:
    """Pieces on one group for each place, under one workload; batch and m are still open.

    Attributes:
        labels: What the places are called; default: their systems.
        feeders: For each place, how many replicas of its group share the prompts of one decode replica;
            default: one.
        joined: The first two places share a scale-up domain, and what crosses between them stays in it.
        streams: For each place, the steps' worth of time in a step that its links bring caches, over all
            feeding replicas; default: ``feeders``.
    """

    pieces: Pieces
    groups: tuple[Group, ...]
    load: Load
    formats: Formats
    labels: tuple[str, ...] = ()
    feeders: tuple[float, ...] = ()
    joined: bool = False
    streams: tuple[float, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The places' names, each once."""
        return self.labels or tuple(group.system.name for group in self.groups)

    def decode_times(self, piece: Piece, place: int, batch: float) -> Times:
        """Seconds of one piece of one layer for one decode micro-batch of ``batch`` requests."""
        new = Point(np.asarray(float(batch)), self.load.step_tokens, self.load.decode_cached)
        return work_time(piece.work, self.groups[place], new, self.formats)

    def prefill_times(self, piece: Piece, place: int) -> Times:
        """Seconds of one piece of one layer for one prompt; a head computes its last token alone."""
        tokens = 1 if piece.role is Role.HEAD else self.load.input_tokens
        point = Point(np.asarray(1.0), tokens, self.load.cached_tokens)
        return work_time(piece.work, self.groups[place], point, self.formats)

    def decode_grid(self, batches: Array) -> Array:
        """Seconds over (piece, place, batch) with counts: what one micro-batch takes at each place."""
        point = Point(batches, self.load.step_tokens, self.load.decode_cached)
        return np.array(
            [
                [p.count * work_time(p.work, g, point, self.formats).total for g in self.groups]
                for p in self.pieces.pieces
            ]
        )

    @cached_property
    def prefill_seconds(self) -> Array:
        """Seconds over (piece, place) with counts, for one prompt."""
        places = range(len(self.groups))
        return np.array(
            [[p.count * float(self.prefill_times(p, g).total) for g in places] for p in self.pieces.pieces]
        )

    @cached_property
    def prefill_busy(self) -> Array:
        """Seconds over (piece, place) that one prompt keeps a place's busiest stage busy.

        Replicas compute prompts side by side; experts are spread over all of them.
        """
        found = np.zeros_like(self.prefill_seconds)
        for i, piece in enumerate(self.pieces.pieces):
            for place, group in enumerate(self.groups):
                replicas = 1.0 if piece.work.bill.routing is not None else float(group.dp)
                replicas *= self.feeders[place] if self.feeders else 1.0
                found[i, place] = (
                    self.prefill_seconds[i, place] * self.pipeline_share(piece, place) / replicas
                )
        return found

    def pipeline_share(self, piece: Piece, place: int) -> float:
        """The share of a piece's time that its busiest pipeline stage bears."""
        pp = self.groups[place].pp
        if not piece.in_layers or pp == 1:
            return 1.0
        layers = self.pieces.layers
        return math.ceil(layers / pp) / layers

    def weight_bytes(self, piece: Piece, place: int) -> float:
        """Bytes of all layers' weights of a piece on one device."""
        group, bill = self.groups[place], piece.work.bill
        experts = bill.experts_resident_bytes(self.formats)
        plain = piece.resident_bytes(self.formats) - experts
        share = self.pipeline_share(piece, place)
        return piece.count * share * (plain / group.tp + experts * (1 - group.spilled_experts) / group.ep)

    def spilled_weight_bytes(self, piece: Piece, place: int) -> float:
        """Bytes of a piece's experts in one device's slower memory, all layers."""
        group = self.groups[place]
        experts = piece.work.bill.experts_resident_bytes(self.formats) * group.spilled_experts / group.ep
        return piece.count * self.pipeline_share(piece, place) * experts

    def tie_bytes(self, tie: Tie, place: int) -> float:
        """Bytes on one device of a weight that several pieces share."""
        return tie.resident_bytes(self.formats) / self.groups[place].tp

    def cache_bytes(self, piece: Piece, place: int, batch: Array, micro_batches: int) -> Array:
        """Bytes of all layers' caches of a piece on one device, for every request in flight, over batches.

        Those in its main memory; ``spilled_cache_bytes`` are beside them.
        """
        kept = 1 - self.groups[place].spilled_cache
        return kept * self._cache_bytes(piece, place, batch, micro_batches)

    def spilled_cache_bytes(self, piece: Piece, place: int, batch: Array, micro_batches: int) -> Array:
        """Bytes of caches in one device's slower memory."""
        return self.groups[place].spilled_cache * self._cache_bytes(piece, place, batch, micro_batches)

    def _cache_bytes(self, piece: Piece, place: int, batch: Array, micro_batches: int) -> Array:
        group = self.groups[place]
        element = format_bits(self.formats.kv, self.pieces.state_bits) / 8
        kept = piece.kv_elements * self.load.context_tokens + piece.fixed_state
        requests = requests_per_replica(group, batch) * micro_batches
        share = self.pipeline_share(piece, place)
        return piece.count * share * kept * element * requests / cache_split(piece.work, group)

    def activation_bytes(self, place: int, batch: Array, micro_batches: int) -> Array:
        """Bytes of activations on one device: the widest piece, in decode and for a chunk of prefill."""
        requests = requests_per_replica(self.groups[place], batch) * micro_batches * self.load.step_tokens
        chunk = min(self.load.input_tokens, PREFILL_CHUNK)
        held: Array = self.live_bytes(place) * np.maximum(requests, chunk)
        return held

    def live_bytes(self, place: int) -> float:
        """Bytes of activations on one device for each token that a replica has in flight."""
        element = format_bits(self.formats.activations, self.pieces.activation_bits) / 8
        width = max((p.work.width for p in self.pieces.pieces if p.role is not Role.HEAD), default=0)
        return element * LIVE_VALUES * width / self.groups[place].tp

    def logits_bytes(self, piece: Piece, place: int, batch: Array, micro_batches: int) -> Array:
        """Bytes of a head's output on one device, for every request in flight; 0 for other pieces."""
        if piece.role is not Role.HEAD:
            return np.zeros_like(batch)
        group = self.groups[place]
        element = format_bits(self.formats.activations, self.pieces.activation_bits) / 8
        requests = requests_per_replica(group, batch) * micro_batches * self.load.step_tokens
        held: Array = element * piece.work.width * requests / group.tp
        return held

    def usable_bytes(self, place: int) -> float:
        """Bytes of one device's memory that a plan may fill."""
        return self.groups[place].device.main.capacity.si * (1 - RESERVE)

    def spills(self, place: int) -> bool:
        """Whether anything of a place lies in its slower memory."""
        group = self.groups[place]
        return bool(group.spilled_experts or group.spilled_cache)

    def usable_slower_bytes(self, place: int) -> float:
        """The same of its next slower memory; 0 where there is none."""
        slower = self.groups[place].device.slower
        return 0.0 if slower is None else slower.capacity.si * (1 - RESERVE)

    @cached_property
    def links(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Seconds of latency and bytes per second from each place to each other."""
        found = {}
        for p, sender in enumerate(self.groups):
            for q, receiver in enumerate(self.groups):
                found[p, q] = link_between(sender, receiver, joined=self.joined and {p, q} == {0, 1})
        return found

    def transfer_seconds(self, source: int, target: int, payload: float) -> tuple[float, float]:
        """Latency and wire time of a message of ``payload`` bytes between places."""
        latency, bytes_per_s = self.links[source, target]
        return latency, payload / bytes_per_s

    def occupancy_seconds(self, source: int, target: int) -> float:
        """What a message between places keeps each of them from working."""
        joined = self.joined and {source, target} == {0, 1}
        return occupancy_between(self.groups[source], self.groups[target], joined)

    def stream_seconds(self, source: int, target: int, payload: float) -> float:
        """Seconds that caches of ``payload`` bytes keep the links busy, shared by all feeding replicas."""
        feeders = self.streams or self.feeders
        if not feeders:
            return payload / self.links[source, target][1]
        ends = [
            self.groups[p].system.scale_out.bandwidth_one_way.si * self.groups[p].systems * feeders[p]
            for p in (source, target)
        ]
        return payload / min(ends)

    def edge_bytes(self, edge: Edge, batch: float, phase: Phase) -> float:
        """Bytes of an edge's tensors, of one layer, for one micro-batch (decode) or prompt (prefill)."""
        if phase is Phase.DECODE:
            point = Point(batch, self.load.step_tokens, self.load.decode_cached)
        else:
            point = Point(1.0, self.load.input_tokens, self.load.cached_tokens)
        element = format_bits(self.formats.activations, self.pieces.activation_bits) / 8
        return float(edge.elements.evaluate(point)) * element

    def state_bytes(self, piece: Piece, tokens: int) -> float:
        """Bytes of cache that ``tokens`` tokens of one request fill, all layers of a piece."""
        element = format_bits(self.formats.kv, self.pieces.state_bits) / 8
        return piece.count * (piece.kv_elements * tokens + piece.fixed_state) * element

    def prompt_cache_bytes(self, piece: Piece, place: int) -> float:
        """Bytes of cache on one device while a prompt is computed there, for one prompt a replica."""
        tokens = self.load.input_tokens + self.load.cached_tokens
        share = self.pipeline_share(piece, place) / cache_split(piece.work, self.groups[place])
        return self.state_bytes(piece, tokens) * share


def occupancy_between(sender: Group, receiver: Group, joined: bool = False) -> float:
    """Seconds that a message keeps each end from working; ends as in ``link_between``."""
    apart = (sender.system.scale_out, receiver.system.scale_out)
    links = (sender.system.scale_up,) if joined else apart
    return max(0.0 if link.occupancy is None else link.occupancy.si for link in links)


def link_between(sender: Group, receiver: Group, joined: bool = False) -> tuple[float, float]:
    """Seconds of latency and bytes per second of what one group sends another.

    Args:
        sender: One end.
        receiver: The other; the slower one sets the pace.
        joined: Both lie in one scale-up domain, else the systems' scale-out links join them.
    """
    if joined:
        link = sender.system.scale_up
        fewer = min(sender.devices, receiver.devices)
        return sender.system.hop_latency(sender.devices + receiver.devices).si, (
            link.bandwidth_one_way.si * fewer
        )
    ends = [(g.system.scale_out, g.systems) for g in (sender, receiver)]
    latency = max(link.latency.si for link, _ in ends)
    return latency, min(link.bandwidth_one_way.si * systems for link, systems in ends)
