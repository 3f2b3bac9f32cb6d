"""From an assignment of pieces to stages: runs of ops on one pool, in execution order."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from disaggc.cost import Times
from disaggc.ir import Graph, Phase, Role, Segment
from disaggc.placement.pieces import Pieces
from disaggc.placement.search import Answer

PARTS = ("compute", "memory", "latency", "collective")


@dataclass(frozen=True, slots=True)
class Span:
    """A stage before it has a file.

    Attributes:
        place: Index of its pool among the answer's groups.
        segments: What it executes.
        nodes: The same as node indices, in order of execution: ascending, but for pieces of a head.
        pieces: Stages that its head is cut into, of which this is one.
    """

    place: int
    segments: tuple[Segment, ...]
    nodes: tuple[int, ...]
    pieces: int = 1

    @property
    def layers(self) -> tuple[int, ...]:
        """First and last layer that it touches; empty for none."""
        touched = [s.layer for s in self.segments if s.layer is not None]
        return (min(touched), max(touched)) if touched else ()

    @property
    def roles(self) -> tuple[str, ...]:
        """What it does, in order, each role once."""
        return tuple(dict.fromkeys(s.role.value for s in self.segments))


def lay_out(graph: Graph, pieces: Pieces, answer: Answer, phase: Phase) -> tuple[Span, ...]:
    """The stages of a phase: neighbouring segments of one place are one stage.

    Masks, positions and extents are computed where core attention is, which reads most of them; what
    depends on the model's inputs alone comes first where that splits fewer stages.
    """
    place_of = _places(graph, pieces, answer, phase)
    orders = (graph.segments, _sides_first(graph))
    runs = min((_runs(order, place_of) for order in orders), key=len)
    return tuple(
        Span(place, tuple(segments), tuple(sorted(i for s in segments for i in s.nodes)))
        for place, segments in runs
    )


def _runs(order: Sequence[Segment], place_of: Mapping[int, int]) -> list[tuple[int, list[Segment]]]:
    """Neighbours of one place, with that place."""
    found = itertools.groupby(order, key=lambda segment: place_of[segment.index])
    return [(place, list(segments)) for place, segments in found]


def _places(graph: Graph, pieces: Pieces, answer: Answer, phase: Phase) -> dict[int, int]:
    """Segment to its place."""
    offset = 0 if phase is Phase.PREFILL else len(pieces.pieces)
    core = next((i for i, p in enumerate(pieces.pieces) if p.role is Role.CORE_ATTENTION), 0)
    piece_of = ((s.index, pieces.piece_of.get(s.index, core)) for s in graph.segments)
    return {index: answer.assignment[offset + piece] for index, piece in piece_of}


def _sides_first(graph: Graph) -> list[Segment]:
    """The segments, those beside the stream that nothing else leads to before all others."""
    late: set[str] = set()
    first, rest = [], []
    for segment in graph.segments:
        nodes = [graph.nodes[i] for i in segment.nodes]
        if segment.role is Role.AUXILIARY and late.isdisjoint(name for node in nodes for name in node.reads):
            first.append(segment)
        else:
            rest.append(segment)
            late.update(name for node in nodes for name in node.writes)
    return [*first, *rest]


def span_times(pieces: Pieces, answer: Answer, span: Span, phase: Phase) -> Times:
    """Seconds of one micro-batch (decode) or prompt (prefill) in a stage, part by part.

    Pieces of a head take equal shares of what it takes.
    """
    configuration = answer.configuration
    times = []
    for segment in span.segments:
        if segment.index in pieces.piece_of:
            piece = pieces.pieces[pieces.piece_of[segment.index]]
            share = 1 / span.pieces if segment.role is Role.HEAD else 1.0
            if phase is Phase.DECODE:
                found = configuration.pricing.decode_times(piece, span.place, configuration.batch)
            else:
                found = configuration.pricing.prefill_times(piece, span.place)
            times.append((found, share))
    sums = {
        name: np.asarray(sum(float(getattr(found, name)) * share for found, share in times))
        for name in (*PARTS, "total")
    }
    return Times(**sums)
