"""A graph as stable text, for ``--print-after`` and for reading."""

from __future__ import annotations

from collections.abc import Iterator

from disaggc.ir.graph import Cost, Graph, Node, Value


def print_graph(graph: Graph) -> str:
    """The graph, one node a line, with whatever annotations it has; the same graph gives the same text."""
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    yield f"graph {graph.name}"
    for name in graph.inputs:
        yield f"  input  {_typed(graph.values[name])}"
    for state in graph.states:
        place = "in place" if state.in_place else "grows"
        yield f"  state  {state.past} -> {state.present} axis {state.axis} {place}"
    for i, node in enumerate(graph.nodes):
        yield f"  {_node(graph, i, node)}"
    for name in graph.outputs:
        yield f"  output {_typed(graph.values[name])}"


def _typed(value: Value) -> str:
    dtype = value.dtype.label if value.dtype else "?"
    shape = ", ".join(str(d) for d in value.shape) if value.shape is not None else "?"
    return f"{value.name}: {dtype}[{shape}]"


def _node(graph: Graph, index: int, node: Node) -> str:
    outputs = ", ".join(_typed(graph.values[n]) if n in graph.values else n for n in node.writes)
    text = f"{outputs} = {node.kind}({', '.join(node.inputs)})"
    if graph.marks:
        mark = graph.marks[index]
        text += f"  # {mark.role}" + (f" L{mark.layer}" if mark.layer is not None else "")
    if graph.costs:
        text += _cost(graph.costs[index])
    return text


def _cost(cost: Cost) -> str:
    return f"; {cost.kind}: {cost.flops} flop" if cost.flops.terms else f"; {cost.kind}"
