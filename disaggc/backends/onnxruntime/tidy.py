"""What a part need not compute: shapes that are known, what its pool computed before, what nobody reads.

Exporters build the target of each ``Reshape`` from extents at run time, and compute the same angles in
every layer. One session of the whole model optimises most of that away; a session of one part cannot
see it, so it is done before the cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from disaggc.backends.onnxruntime.making import Made
from disaggc.backends.onnxruntime.parts import is_constant, reads
from disaggc.ir import BATCH, NEW, TOTAL, Expr, Graph, parse_dim
from disaggc.passes.contents import Contents, whole

_NEVER_EMPTY = frozenset((BATCH, NEW, TOTAL))
"""Extents that are 1 at least. Where there may be none, onnxruntime cannot tell one extent by the others."""
_CHANCE = ("Random", "Bernoulli", "Multinomial", "Dropout")


@dataclass(frozen=True, slots=True)
class Tidied:
    """Parts of a model, some of their nodes written otherwise.

    Attributes:
        rewritten: Index into the model's nodes to the node that is written in its place.
        targets: For each part the constants that its nodes read then.
    """

    rewritten: Mapping[int, onnx.NodeProto]
    targets: tuple[tuple[Made, ...], ...]


def tidied(
    source: onnx.ModelProto,
    graph: Graph,
    parts: Sequence[tuple[int, Iterable[int]]],
    known: Mapping[str, Contents],
) -> Tidied:
    """Write nodes so that shape arithmetic, and what was computed before, is no longer read.

    Args:
        source: The model.
        graph: The same, with its extents bound to the workload.
        parts: The pool and the node indices of each part, in execution order.
        known: From ``contents``.
    """
    merge = _Merge()
    rewritten: dict[int, onnx.NodeProto] = {}
    targets = []
    for pool, nodes in parts:
        made: dict[str, Made] = {}
        for index in nodes:
            node = source.graph.node[index]
            target = _target(graph, node, known)
            name = "" if target is None else f"target//{'x'.join(map(str, target))}"
            renamed = merge.take(pool, node, name)
            if renamed is not None:
                rewritten[index] = renamed
            if target is not None:
                made[name] = Made(name, False, target)
        targets.append(tuple(made.values()))
    return Tidied(rewritten, tuple(targets))


def alive(
    source: onnx.ModelProto,
    parts: Sequence[Sequence[int]],
    made: Sequence[Iterable[Made]],
    rewritten: Mapping[int, onnx.NodeProto],
) -> list[tuple[int, ...]]:
    """The nodes of each part that a graph output depends on.

    Args:
        source: The model.
        parts: Node indices of each part, ascending; parts in execution order.
        made: For each part what it makes for itself.
        rewritten: Nodes that are written otherwise than the model has them.
    """
    needed = {value.name for value in source.graph.output}
    kept: list[tuple[int, ...]] = []
    for nodes, own in zip(reversed(parts), reversed(made), strict=True):
        making = {m.name: [e[0] for e in m.elements if not isinstance(e, int)] for m in own}
        living = []
        for index in reversed(nodes):
            node = rewritten.get(index, source.graph.node[index])
            if needed.isdisjoint(node.output):
                continue
            living.append(index)
            for name in reads(node):
                needed.update(making.get(name, (name,)))
        kept.append(tuple(reversed(living)))
    return kept[::-1]


class _Merge:
    """Common subexpressions of each pool: the first node that computes something serves the later ones."""

    def __init__(self) -> None:
        self._first: dict[tuple[object, ...], Sequence[str]] = {}
        self._same: dict[tuple[int, str], str] = {}

    def take(self, pool: int, node: onnx.NodeProto, target: str) -> onnx.NodeProto | None:
        """The node with what it is to read (``target`` second, if there is one); None if unchanged."""
        inputs = [self._same.get((pool, name), name) for name in node.input]
        if target:
            inputs[1] = target
        if _is_pure(node):
            self._note(pool, node, inputs)
        if inputs == list(node.input):
            return None
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        if target:
            copy.ClearField("attribute")  # allowzero, which would take a 0 at its word
        return copy

    def _note(self, pool: int, node: onnx.NodeProto, inputs: Sequence[str]) -> None:
        attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
        which = tuple(bool(name) for name in node.output)
        key = (pool, node.domain, node.op_type, node.overload, which, *inputs, *attributes)
        first = self._first.setdefault(key, node.output)
        if first is not node.output:
            self._same.update(((pool, name), one) for name, one in zip(node.output, first, strict=True))


def _is_pure(node: onnx.NodeProto) -> bool:
    """Whether equal inputs give equal outputs, and nothing but its inputs matters."""
    bodies = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return not (
        is_constant(node)
        or node.op_type.startswith(_CHANCE)
        or any(attribute.type in bodies for attribute in node.attribute)
    )


def _target(graph: Graph, node: onnx.NodeProto, known: Mapping[str, Contents]) -> tuple[int, ...] | None:
    """What a ``Reshape`` can be told once for all steps: extents, 0 for "as it is", one -1 for "the rest"."""
    if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx") or node.input[1] in graph.weights:
        return None
    value, wanted = graph.values.get(node.input[0]), known.get(node.input[1])
    literal = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
    if value is None or value.shape is None or wanted is None or (literal and Expr.of(0) in wanted):
        return None
    given = [parse_dim(str(dim)) for dim in value.shape]
    target = tuple(_extent(element, given[axis : axis + 1]) for axis, element in enumerate(wanted))
    never_empty = all(dim.symbols <= _NEVER_EMPTY for dim in given)
    return target if target.count(-1) <= (1 if never_empty else 0) else None


def _extent(wanted: Expr, given: Sequence[Expr]) -> int:
    if not wanted.symbols:
        number = whole(wanted)
        return -1 if number is None else number
    return 0 if [wanted] == given else -1
