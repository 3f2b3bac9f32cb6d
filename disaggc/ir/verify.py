"""What holds of every graph between two passes."""

from __future__ import annotations

from disaggc.errors import GraphError
from disaggc.ir.graph import Graph


def verify(graph: Graph, before: Graph | None = None) -> None:
    """Check that values are written once, before they are read, and annotations cover the graph.

    Args:
        graph: What is checked.
        before: A graph that was checked already; what both share is not checked again.

    Raises:
        GraphError: The graph contradicts itself; the message names the value or node.
    """
    if before is None or any(getattr(graph, part) is not getattr(before, part) for part in _ORDERED):
        _check_order(graph)
    for name, annotation in (("marks", graph.marks), ("costs", graph.costs)):
        if annotation and len(annotation) != len(graph.nodes):
            raise GraphError(f"{len(annotation)} {name} for {len(graph.nodes)} nodes of '{graph.name}'.")
    for state in graph.states:
        if state.past not in graph.inputs or state.present not in graph.outputs:
            raise GraphError(f"State '{state.past}' -> '{state.present}' is no graph input and output.")
    _check_segments(graph)


_ORDERED = ("nodes", "weights", "inputs", "outputs")
"""What the order of nodes hangs on."""


def _check_order(graph: Graph) -> None:
    written = set(graph.inputs)
    for node in graph.nodes:
        for name in node.reads:
            if name not in written and name not in graph.weights:
                raise GraphError(
                    f"Node '{node.name}' ({node.kind}) reads '{name}', which nothing before it writes. "
                    f"Is the model complete, and sorted?"
                )
        for name in node.writes:
            if name in written:
                raise GraphError(f"Node '{node.name}' ({node.kind}) writes '{name}' a second time.")
            written.add(name)
    missing = [name for name in graph.outputs if name not in written and name not in graph.weights]
    if missing:
        raise GraphError(f"Graph output '{missing[0]}' is written by no node.")


def _check_segments(graph: Graph) -> None:
    if not graph.segments:
        return
    placed = sorted(i for segment in graph.segments for i in segment.nodes)
    if placed != list(range(len(graph.nodes))):
        raise GraphError(f"Segments of '{graph.name}' do not hold every node exactly once.")
