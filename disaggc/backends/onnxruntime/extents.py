"""Extents that a part can tell from its own inputs, so that shape arithmetic crosses no cut.

Exporters take batch and sequence length once, from the shape of a global input ('Shape(past.1.key)'),
and hand them to every layer. Cut there, each FFN part would ask for numbers, or for the cache
itself, that it can read off the activations it gets anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto, TensorProto, helper

from disaggc.ir import Expr, Graph, Node, parse_dim

Contents = tuple[Expr, ...]
"""The elements of an integer vector or scalar, over the model's symbols."""
_SHORT = 16
"""Longer vectors are no extents."""


@dataclass(frozen=True, slots=True)
class Made:
    """An integer tensor that a part makes for itself.

    Attributes:
        name: The value.
        scalar: Whether it has no axis.
        elements: Numbers, and (input of the part, axis) for an extent of it.
    """

    name: str
    scalar: bool
    elements: tuple[int | tuple[str, int], ...]


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


def makeable(
    graph: Graph, names: Iterable[str], given: Sequence[str], known: Mapping[str, Contents]
) -> list[Made]:
    """Those of ``names`` that can be made from the extents of ``given``, and how.

    Args:
        graph: The model.
        names: Values that a part would have to be sent.
        given: Activations that it is sent anyway.
        known: From ``contents``.
    """
    source: dict[Expr, tuple[str, int]] = {}
    for name in given:
        for axis, dim in enumerate(graph.values[name].shape or ()):
            if not isinstance(dim, int):
                source.setdefault(parse_dim(str(dim)), (name, axis))
    found = []
    for name in names:
        elements = [_number(e) if not e.symbols else source.get(e) for e in known.get(name, (Expr.of("?"),))]
        if all(e is not None for e in elements):
            scalar = graph.values[name].shape == ()
            found.append(Made(name, scalar, tuple(e for e in elements if e is not None)))
    return found


def making(made: Made) -> list[NodeProto]:
    """The nodes that compute it."""
    pieces, nodes = [], []
    for k, element in enumerate(made.elements):
        piece = f"{made.name}//{k}"
        pieces.append(piece)
        if isinstance(element, int):
            nodes.append(_constant(piece, element))
        else:
            name, axis = element
            shape, at = f"{piece}/shape", f"{piece}/axis"
            nodes += [helper.make_node("Shape", [name], [shape]), _constant(at, axis)]
            nodes.append(helper.make_node("Gather", [shape, at], [piece]))
    if not made.scalar:
        return [*nodes, helper.make_node("Concat", pieces, [made.name], axis=0)]
    return [*nodes, helper.make_node("Squeeze", pieces, [made.name])]


def _constant(name: str, value: int) -> NodeProto:
    tensor = helper.make_tensor(name, TensorProto.INT64, [1], [value])
    return helper.make_node("Constant", [], [name], value=tensor)


def _number(element: Expr) -> int | None:
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
    indices = [_number(e) for e in picks]
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
