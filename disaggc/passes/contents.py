"""What is in small integer tensors: extents and constants, through the ops that exporters move them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from disaggc.ir import Expr, Graph, Node, parse_dim

Contents = tuple[Expr, ...]
"""The elements of an integer vector or scalar, over the model's symbols."""
_SHORT = 16
"""Longer vectors are no extents."""


def contents(graph: Graph) -> dict[str, Contents]:
    """What is in each small integer tensor that is made of extents and constants alone."""
    known = {
        name: tuple(Expr.of(i) for i in weight.integers)
        for name, weight in graph.weights.items()
        if weight.integers is not None and len(weight.shape) <= 1 and len(weight.integers) <= _SHORT
    }
    for node in graph.nodes:
        work = _WORK.get(node.kind)
        found = work(graph, node, known) if work is not None and node.writes else None
        if found is not None and len(found) <= _SHORT:
            known[node.writes[0]] = found
    return known


def whole(element: Expr) -> int | None:
    """The whole number that an expression without symbols is; None for a fraction."""
    value = sum(coefficient for _, coefficient in element.terms)
    return int(value) if value == int(value) else None


def _shape(graph: Graph, node: Node, _: Mapping[str, Contents]) -> Contents | None:
    value = graph.values.get(node.inputs[0])
    weight = graph.weights.get(node.inputs[0])
    shape = weight.shape if weight is not None else value.shape if value is not None else None
    if shape is None:
        return None
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    chosen = shape[int(str(start)) : None if end is None else int(str(end))]
    return tuple(parse_dim(str(dim)) for dim in chosen)


def _gather(_: Graph, node: Node, known: Mapping[str, Contents]) -> Contents | None:
    data, picks = (known.get(name) for name in node.inputs[:2])
    if data is None or picks is None or any(e.symbols for e in picks):
        return None
    indices = [whole(e) for e in picks]
    return tuple(data[i] for i in indices if i is not None and -len(data) <= i < len(data)) or None


def _concat(_: Graph, node: Node, known: Mapping[str, Contents]) -> Contents | None:
    parts = [known.get(name) for name in node.inputs]
    return None if None in parts else tuple(e for part in parts if part is not None for e in part)


def _same(_: Graph, node: Node, known: Mapping[str, Contents]) -> Contents | None:
    return known.get(node.inputs[0])


_WORK: Mapping[str, Callable[[Graph, Node, Mapping[str, Contents]], Contents | None]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _same,
    "Squeeze": _same,
    "Reshape": _same,
    "Cast": _same,
    "Identity": _same,
}
"""Ops that extents go through; to leave one out only means that its result is sent."""
