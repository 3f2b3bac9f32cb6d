"""Writes the assignment problem of one configuration.

A configuration is a group of devices for each place, a micro-batch b and a number m of
micro-batches in flight. Its time per output token, with ``load`` the time that one micro-batch keeps a
resource busy, is

    path  = sum of piece and transfer times of one micro-batch through one token step
    TPOT  = max(path, m * max over resources of load) + engine overhead

which holds for colocated, prefill / decode and attention / FFN plans alike and contains the ping-pong
rule m >= 2 (1 + Tc / Tf) (MegaScale-Infer, eq. 3). A message that occupies its two ends (LogP's o) adds to
the path twice and to the load of each end once. Prefill takes its share of each resource:
m * b / steps of an answer prefills fall into one step. Conservative: a transfer keeps its sender busy, too.
Times are whole picoseconds and memory whole kilobytes, so that solver and checker agree exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from disaggc.cost import Group
from disaggc.ir import Phase
from disaggc.placement.flows import Edge
from disaggc.placement.pieces import Piece, Tie
from disaggc.placement.pricing import Limits, Pricing
from disaggc.placement.problem import Flow, Problem, Row

PICO = 1e12
KILO = 1024.0
STEP_OVERHEAD_S = 50e-6
"""Sampling, scheduling and launching of one engine step; inferred (CUDA graphs, asynchronous scheduling)."""
NO_LIMIT = 2**62
"""Limit of a row that is counted but binds nothing."""
PHASES = (Phase.PREFILL, Phase.DECODE)


def step_overhead_s(groups: Iterable[Group]) -> float:
    """Seconds that the slowest engine of some groups spends on a step; our guess where it declares none."""
    declared = (group.system.step_overhead for group in groups)
    return max((STEP_OVERHEAD_S if figure is None else figure.si for figure in declared), default=0.0)


def write_problem(
    pricing: Pricing,
    batch: int,
    micro_batches: int,
    limits: Limits,
    allowed: tuple[tuple[int, ...], ...],
    overlapped: bool = False,
) -> Problem:
    """The assignment problem of one configuration.

    Items are pieces, first all of prefill and then all of decode. ``overlapped`` prices transfers
    optimistically, as hidden behind their sender's work.

    Args:
        pricing: Pieces and groups.
        batch: Requests in one micro-batch.
        micro_batches: How many are in flight.
        limits: What the tier demands.
        allowed: Places of each item.
        overlapped: Whether transfers are hidden.
    """
    writer = _Writer(pricing, batch, micro_batches, overlapped)
    places = range(len(pricing.groups))
    rows = [
        writer.messages(),
        writer.path(Phase.DECODE),
        *(writer.busy(place) for place in places),
        *(writer.link(p, q) for p in places for q in places if p != q),
        writer.time_to_first_token(limits.ttft_s),
    ]
    if limits.memory:
        rows += [writer.memory(place) for place in places]
        rows += [writer.slower_memory(place) for place in places if pricing.spills(place)]
    pieces, overhead = len(pricing.pieces.pieces), step_overhead_s(pricing.groups)
    return Problem(
        places=len(pricing.groups),
        allowed=allowed,
        flows=tuple(writer.flows),
        groups=(*((i, i + pieces) for i in range(pieces)), *(writer.items_of(t) for t in writer.ties)),
        rows=tuple(rows),
        limit=None if limits.tpot_s is None else int((limits.tpot_s - overhead) * PICO),
        tie_breaks=("messages", "path"),
    )


class _Writer:
    """Coefficients of one configuration's rows."""

    def __init__(self, pricing: Pricing, batch: int, micro_batches: int, overlapped: bool) -> None:
        self.pricing = pricing
        self.batch = batch
        self.m = micro_batches
        self.overlapped = overlapped
        self.pieces = pricing.pieces.pieces
        self.ties = pricing.pieces.ties
        self.places = range(len(pricing.groups))
        self.prompts_per_step = micro_batches * batch / pricing.load.steps
        self.decode = pricing.decode_grid(np.asarray([float(batch)]))[:, :, 0]
        self.flows: list[Flow] = []
        self._edge_flows: list[tuple[int, Edge, Phase]] = []
        self._handovers: list[tuple[int, Piece, int]] = []
        self._lay_flows()
        self._messages = {flow: edge.count for flow, edge, _ in self._edge_flows if edge.message}
        self._transfers = {phase: self._timed(phase) for phase in PHASES}

    def item(self, piece: int, phase: Phase) -> int:
        """The item of a piece in a phase."""
        return piece if phase is Phase.PREFILL else piece + len(self.pieces)

    def items_of(self, tie: Tie) -> tuple[int, ...]:
        """The items that read a tied weight, of both phases."""
        return tuple(self.item(piece, phase) for phase in PHASES for piece in tie.pieces)

    def _lay_flows(self) -> None:
        for phase in PHASES:
            for edge in self.pricing.pieces.edges:
                self._edge_flows.append((len(self.flows), edge, phase))
                readers = tuple(self.item(r, phase) for r in edge.readers)
                self.flows.append(Flow(self.item(edge.source, phase), readers))
        for i, piece in enumerate(self.pieces):
            if piece.has_state:
                self._lay_handovers(i, piece)

    def _lay_handovers(self, i: int, piece: Piece) -> None:
        """Caches live where decode is: a prefix goes to prefill, and what prefill computes comes back."""
        load = self.pricing.load
        before, after = self.item(i, Phase.PREFILL), self.item(i, Phase.DECODE)
        for source, reader, tokens in (
            (before, after, load.input_tokens),
            (after, before, load.cached_tokens),
        ):
            if tokens:
                self._handovers.append((len(self.flows), piece, tokens))
                self.flows.append(Flow(source, (reader,)))

    def messages(self) -> Row:
        """How many messages cross between places in a step, in a prefill, and at hand-over; binds nothing."""
        counts = dict(self._messages)
        counts.update({flow: piece.count for flow, piece, _ in self._handovers})
        cross = {(f, p, q): n for f, n in counts.items() for p in self.places for q in self.places if p != q}
        return Row("messages", {}, cross, {}, 0, NO_LIMIT)

    def path(self, phase: Phase) -> Row:
        """One micro-batch through one token step, or one prompt through prefill."""
        seconds = self.decode if phase is Phase.DECODE else self.pricing.prefill_seconds
        at = {
            (self.item(i, phase), p): _pico(seconds[i, p])
            for i in range(len(self.pieces))
            for p in self.places
        }
        return Row("path" if phase is Phase.DECODE else "prefill", at, self._crossings(phase, 1.0))

    def _crossings(self, phase: Phase, times: float) -> dict[tuple[int, int, int], int]:
        """Picoseconds of every crossing of a phase, latency and wire, ``times`` over."""
        return {
            key: _pico(times * (delay + wire)) + 2 * _pico(times * self._occupied(key))
            for key, (delay, wire) in self._transfers[phase].items()
        }

    def _occupied(self, key: tuple[int, int, int]) -> float:
        """Seconds that all occurrences of an edge in a step occupy each of two places, if it crosses."""
        flow, p, q = key
        return self._messages.get(flow, 0) * self.pricing.occupancy_seconds(p, q)

    def _timed(self, phase: Phase) -> dict[tuple[int, int, int], tuple[float, float]]:
        """Latency and wire seconds of all occurrences of each edge in a step."""
        found = {}
        for flow, edge, of in self._edge_flows:
            if of is not phase:
                continue
            payload = 0.0 if edge.message else self.pricing.edge_bytes(edge, self.batch, phase)
            for p in self.places:
                for q in self.places:
                    if p != q:
                        latency, wire = self.pricing.transfer_seconds(p, q, payload)
                        delay = latency * edge.count if edge.message else 0.0
                        found[flow, p, q] = delay, wire * edge.count
        return found

    def busy(self, place: int) -> Row:
        """What a step's micro-batches and its share of prefills keep a place busy."""
        at: dict[tuple[int, int], int] = {}
        for i, piece in enumerate(self.pieces):
            share = self.pricing.pipeline_share(piece, place)
            prompt = self.pricing.prefill_busy[i, place]
            at[self.item(i, Phase.DECODE), place] = _pico(self.m * self.decode[i, place] * share)
            at[self.item(i, Phase.PREFILL), place] = _pico(self.prompts_per_step * prompt)
        cross: dict[tuple[int, int, int], int] = {}
        for phase, times in ((Phase.DECODE, self.m), (Phase.PREFILL, self.prompts_per_step)):
            cross.update(self._occupying(place, phase, times))
        return Row(f"busy.{place}", at, cross)

    def _occupying(self, place: int, phase: Phase, times: float) -> dict[tuple[int, int, int], int]:
        """Picoseconds that the crossings of a phase keep a place busy, ``times`` over."""
        found = {}
        for key, (delay, wire) in self._transfers[phase].items():
            exposed = key[1] == place and not self.overlapped
            occupied = _pico(times * self._occupied(key)) if place in key[1:] else 0
            if exposed or occupied:
                found[key] = (_pico(times * (delay + wire)) if exposed else 0) + occupied
        return found

    def link(self, source: int, target: int) -> Row:
        """What a step's messages and cache hand-overs keep one direction of a link busy."""
        cross: dict[tuple[int, int, int], int] = {}
        for phase, times in ((Phase.DECODE, self.m), (Phase.PREFILL, self.prompts_per_step)):
            for key, (_, wire) in self._transfers[phase].items():
                if key[1:] == (source, target):
                    cross[key] = _pico(times * wire)
        for flow, piece, tokens in self._handovers:
            wire = self.pricing.stream_seconds(source, target, self.pricing.state_bytes(piece, tokens))
            cross[flow, source, target] = _pico(self.prompts_per_step * wire)
        return Row(f"link.{source}.{target}", {}, cross)

    def time_to_first_token(self, limit_s: float | None) -> Row:
        """Prefill of one prompt and the hand-over of its cache. Without a demand it binds nothing."""
        path = self.path(Phase.PREFILL)
        cross = dict(path.cross)
        for flow, piece, tokens in self._handovers:
            payload = self.pricing.state_bytes(piece, tokens)
            for p in self.places:
                for q in self.places:
                    if p != q:
                        cross[flow, p, q] = _pico(sum(self.pricing.transfer_seconds(p, q, payload)))
        limit = int(limit_s * PICO) if limit_s is not None else NO_LIMIT
        return Row("ttft", path.at, cross, {}, 0, limit)

    def memory(self, place: int) -> Row:
        """Kilobytes on one device of a place: weights, caches, activations and logits, of both phases."""
        shared = [self.pricing.tie_bytes(tie, place) for tie in self.ties]
        resident = {}
        for i, piece in enumerate(self.pieces):
            own = self.pricing.weight_bytes(piece, place)
            own -= sum(held for tie, held in zip(self.ties, shared, strict=True) if i in tie.pieces)
            resident[i, place] = math.ceil(max(0.0, own) / KILO)
        for k, held in enumerate(shared):
            resident[len(self.pieces) + k, place] = math.ceil(held / KILO)
        in_flight = np.asarray(float(self.batch))
        at: dict[tuple[int, int], int] = {}
        for i, piece in enumerate(self.pieces):
            kept = self.pricing.cache_bytes(piece, place, in_flight, self.m)
            logits = self.pricing.logits_bytes(piece, place, in_flight, self.m)
            at[self.item(i, Phase.DECODE), place] = math.ceil(float(kept + logits) / KILO)
            at[self.item(i, Phase.PREFILL), place] = math.ceil(
                self.pricing.prompt_cache_bytes(piece, place) / KILO
            )
        activations = math.ceil(float(self.pricing.activation_bytes(place, in_flight, self.m)) / KILO)
        return Row(
            f"memory.{place}", at, {}, resident, activations, int(self.pricing.usable_bytes(place) / KILO)
        )

    def slower_memory(self, place: int) -> Row:
        """Kilobytes on one device of a place that lie in its next slower memory."""
        in_flight, resident, at = np.asarray(float(self.batch)), {}, {}
        for i, piece in enumerate(self.pieces):
            resident[i, place] = math.ceil(self.pricing.spilled_weight_bytes(piece, place) / KILO)
            kept = self.pricing.spilled_cache_bytes(piece, place, in_flight, self.m)
            at[self.item(i, Phase.DECODE), place] = math.ceil(float(kept) / KILO)
        limit = int(self.pricing.usable_slower_bytes(place) / KILO)
        return Row(f"slower.{place}", at, {}, resident, 0, limit)


def _pico(seconds: float) -> int:
    return math.ceil(seconds * PICO)
