"""Extents that a part can tell from its own inputs, so that shape arithmetic crosses no cut.

Exporters take batch and sequence length once, from the shape of a global input ('Shape(past.1.key)'),
and hand them to every layer. Cut there, each FFN part would ask for numbers, or for the cache
itself, that it can read off the activations it gets anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto, TensorProto, helper

from disaggc.ir import Expr, Graph, parse_dim
from disaggc.passes.contents import Contents, whole


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

    @property
    def is_read(self) -> bool:
        """Whether any element is read off an input; a constant otherwise."""
        return not all(isinstance(element, int) for element in self.elements)


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
        elements = [whole(e) if not e.symbols else source.get(e) for e in known.get(name, (Expr.of("?"),))]
        if all(e is not None for e in elements):
            scalar = graph.values[name].shape == ()
            found.append(Made(name, scalar, tuple(e for e in elements if e is not None)))
    return found


def making(made: Made) -> list[NodeProto]:
    """The nodes that compute it."""
    if not (made.is_read or made.scalar):
        return [_constant(made.name, [element for element in made.elements if isinstance(element, int)])]
    pieces, nodes = [], []
    for k, element in enumerate(made.elements):
        piece = f"{made.name}//{k}"
        pieces.append(piece)
        if isinstance(element, int):
            nodes.append(_constant(piece, [element]))
        else:
            name, axis = element
            shape, at = f"{piece}/shape", f"{piece}/axis"
            nodes += [helper.make_node("Shape", [name], [shape]), _constant(at, [axis])]
            nodes.append(helper.make_node("Gather", [shape, at], [piece]))
    if not made.scalar:
        return [*nodes, helper.make_node("Concat", pieces, [made.name], axis=0)]
    return [*nodes, helper.make_node("Squeeze", pieces, [made.name])]


def _constant(name: str, values: Sequence[int]) -> NodeProto:
    tensor = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
    return helper.make_node("Constant", [], [name], value=tensor)
