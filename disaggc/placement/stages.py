"""From an assignment of pieces to stages: runs of ops on one pool, in execution order."""

from __future__ import annotations

from collections.abc import Iterator
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
        nodes: The same as node indices, ascending.
    """

    place: int
    segments: tuple[Segment, ...]
    nodes: tuple[int, ...]

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
    depends on the model's inputs alone comes first, so that it splits no other stage.
    """
    spans: list[list[Segment]] = []
    places: list[int] = []
    for segment, place in _placed(graph, pieces, answer, phase):
        if not places or places[-1] != place:
            spans.append([])
            places.append(place)
        spans[-1].append(segment)
    return tuple(
        Span(place, tuple(segments), tuple(sorted(i for s in segments for i in s.nodes)))
        for place, segments in zip(places, spans, strict=True)
    )


def _placed(graph: Graph, pieces: Pieces, answer: Answer, phase: Phase) -> Iterator[tuple[Segment, int]]:
    offset = 0 if phase is Phase.PREFILL else len(pieces.pieces)
    core = next((i for i, p in enumerate(pieces.pieces) if p.role is Role.CORE_ATTENTION), 0)
    for segment in _sides_first(graph):
        piece = pieces.piece_of.get(segment.index, core)
        yield segment, answer.assignment[offset + piece]


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
    """Seconds of one micro-batch (decode) or prompt (prefill) in a stage, part by part."""
    configuration = answer.configuration
    times = []
    for segment in span.segments:
        if segment.index in pieces.piece_of:
            piece = pieces.pieces[pieces.piece_of[segment.index]]
            if phase is Phase.DECODE:
                times.append(configuration.pricing.decode_times(piece, span.place, configuration.batch))
            else:
                times.append(configuration.pricing.prefill_times(piece, span.place))
    sums = {name: np.asarray(sum(float(getattr(t, name)) for t in times)) for name in (*PARTS, "total")}
    return Times(**sums)
