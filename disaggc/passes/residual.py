"""The main stream of a model: what flows from the embedding to the logits, and where all of it meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from disaggc.ir import DType, Graph
from disaggc.passes.flow import Links, articulations, constant_nodes, kept, links, reach
from disaggc.passes.vocabulary import Ops

INTEGERS = (DType.INT64, DType.INT32)


@dataclass(frozen=True, slots=True)
class Stream:
    """The flow from one token input to the logits.

    Attributes:
        tokens: The graph input that it starts from.
        logits: The graph output that it ends in.
        order: Nodes on some path from the embedding to the logits, in topological order.
        points: The nodes of ``order`` that every such path goes through.
    """

    tokens: str
    logits: str
    order: tuple[int, ...]
    points: tuple[int, ...]


@kept("nodes", "weights", "states")
def main_stream(graph: Graph, ops: Ops) -> Stream | None:
    """The stream with the most points that all of its flow goes through; None if there is none."""
    logits = _logits(graph)
    if logits is None:
        return None
    around = links(graph)
    end = around.writer[logits]
    upstream = reach([end], around.before.__getitem__)
    carriers = frozenset(i for i in upstream if graph.nodes[i].kind not in ops.metadata)
    streams = []
    for tokens, start in _starts(graph, ops, constant_nodes(graph)):
        order = sorted(_flow(around, start, carriers))
        if order[-1] == end:
            points = articulations(order, around.after.__getitem__)
            streams.append(Stream(tokens, logits, tuple(order), tuple(points)))
    return max(streams, key=lambda s: (len(s.points), len(s.order)), default=None)


def _flow(around: Links, start: int, carriers: frozenset[int]) -> set[int]:
    """Where data flows from ``start``: an extent (Shape) is no data."""
    return reach([start], lambda i: (j for j in around.after[i] if j in carriers))


def _logits(graph: Graph) -> str | None:
    """The last output written that is no state."""
    presents = {state.present for state in graph.states}
    writer = links(graph).writer
    free = [name for name in graph.outputs if name not in presents and name in writer]
    return max(free, key=lambda name: writer[name], default=None)


def _starts(graph: Graph, ops: Ops, constant: Sequence[bool]) -> list[tuple[str, int]]:
    """Candidates: nodes that look up ids of an input in a table, and readers of embedded inputs."""
    pasts = {state.past for state in graph.states}
    free = [name for name in graph.inputs if name not in pasts]
    ids = {n: n for n in free if graph.values[n].dtype in INTEGERS}
    embedded = {n for n in free if _is_embedded(graph, n)}
    weights = set(graph.weights)
    starts: list[tuple[str, int]] = []
    for i, node in enumerate(graph.nodes):
        if constant[i]:
            weights.update(node.writes)
        elif node.kind in ops.lookup and node.inputs[0] in weights and node.inputs[1] in ids:
            starts.append((ids[node.inputs[1]], i))
        elif node.kind in ops.movement and node.inputs[0] in ids:
            ids.update((name, ids[node.inputs[0]]) for name in node.writes)
        else:
            found = next((n for n in node.reads if n in embedded and node.kind not in ops.metadata), None)
            if found is not None:
                starts.append((found, i))
                embedded.discard(found)
    return starts


def _is_embedded(graph: Graph, name: str) -> bool:
    value = graph.values[name]
    return value.dtype is not None and value.dtype.is_float and len(value.shape or ()) == 3
