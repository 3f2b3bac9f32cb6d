"""What pieces hand to each other, folded over layers: contents cost bytes, messages cost latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from disaggc.ir import Expr, Graph, Role, parse_dim


@dataclass(frozen=True, slots=True)
class Edge:
    """What one piece hands to others, so often a step.

    Attributes:
        source: Piece.
        readers: Pieces.
        elements: Of all its tensors of this pattern, for one step over the workload symbols; none for
            an edge that stands for the message itself.
        count: How often it occurs in a step.
        message: Whether it stands for a message (it bears the latency) or for its content (bytes).
    """

    source: int
    readers: tuple[int, ...]
    elements: Expr
    count: int
    message: bool


def segment_of(graph: Graph) -> list[int]:
    """Node to segment."""
    owner = [0] * len(graph.nodes)
    for segment in graph.segments:
        for i in segment.nodes:
            owner[i] = segment.index
    return owner


def edges_of(graph: Graph, piece_of: Mapping[int, int]) -> list[Edge]:
    """Values that one piece writes and others read, folded over layers."""
    owner = segment_of(graph)
    states = {n for s in graph.states for n in (s.past, s.present)}
    read_by: dict[str, set[int]] = {}
    for i, node in enumerate(graph.nodes):
        for name in node.reads:
            read_by.setdefault(name, set()).add(owner[i])
    contents: dict[tuple[int, tuple[int, ...], str], int] = {}
    messages: dict[int, set[int]] = {}
    for segment in graph.segments:
        if segment.index not in piece_of:
            continue
        for i in segment.nodes:
            for name in graph.nodes[i].writes:
                readers = {s for s in read_by.get(name, ()) if s != segment.index and s in piece_of}
                if not readers or name in states or name in graph.weights or not _is_data(graph, name):
                    continue
                pattern = (piece_of[segment.index], tuple(sorted({piece_of[s] for s in readers})))
                size = str(_elements(graph, name))
                contents[(*pattern, size)] = contents.get((*pattern, size), 0) + 1
                messages.setdefault(segment.index, set()).update(readers)
    edges = [Edge(s, r, parse_dim(size), n, message=False) for (s, r, size), n in sorted(contents.items())]
    return edges + _messages(messages, piece_of) + _feedback(graph, piece_of)


def _messages(messages: dict[int, set[int]], piece_of: Mapping[int, int]) -> list[Edge]:
    """One message a segment to each place that reads from it, whatever it carries."""
    counts: dict[tuple[int, tuple[int, ...]], int] = {}
    for source, readers in messages.items():
        key = (piece_of[source], tuple(sorted({piece_of[s] for s in readers})))
        counts[key] = counts.get(key, 0) + 1
    return [Edge(s, readers, Expr(), n, message=True) for (s, readers), n in sorted(counts.items())]


def _feedback(graph: Graph, piece_of: Mapping[int, int]) -> list[Edge]:
    """The next token goes from the head back to the embedding."""
    heads = [piece_of[s.index] for s in graph.segments if s.role is Role.HEAD]
    embeddings = [piece_of[s.index] for s in graph.segments if s.role is Role.EMBEDDING]
    if not heads or not embeddings:
        return []
    return [Edge(heads[-1], (embeddings[0],), Expr(), 1, message=True)]


def _is_data(graph: Graph, name: str) -> bool:
    """Whether a value grows with tokens; extents and constants ride along with any message."""
    return bool(_elements(graph, name).symbols)


def _elements(graph: Graph, name: str) -> Expr:
    count = Expr.of(1)
    for dim in graph.values[name].shape or ():
        count = count * parse_dim(str(dim))
    return count
