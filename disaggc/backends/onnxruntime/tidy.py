"""What a part need not compute: shapes that are known, what its pool computed before, what nobody reads.

Exporters build the target of each ``Reshape`` from extents at run time, and compute the same angles in
every layer. One session of the whole model optimises most of that away; a session of one part cannot
see it, so it is done before the cut.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from disaggc.backends.onnxruntime.making import Made
from disaggc.backends.onnxruntime.nodes import is_standard
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
    tidy = _Tidy(graph, known, {value.name for value in source.graph.input})
    for pool, nodes in parts:
        tidy.begin(pool)
        for index in nodes:
            tidy.take(index, source.graph.node[index])
    return Tidied(tidy.rewritten, tuple(tuple(made.values()) for made in tidy.targets))


def alive(
    source: onnx.ModelProto,
    parts: Sequence[Sequence[int]],
    made: Sequence[Iterable[Made]],
    rewritten: Mapping[int, onnx.NodeProto],
) -> list[tuple[int, ...]]:
    """The nodes of each part that a graph output depends on.

    Args:
        source: The model.
        parts: Node indices of each part, and parts, in execution order.
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


class _Tidy:
    """Goes through the nodes in order of execution.

    ``rewritten`` and ``targets`` are those of ``Tidied``.
    """

    def __init__(self, graph: Graph, known: Mapping[str, Contents], given: Collection[str]) -> None:
        """Begin; ``given`` are the model's inputs."""
        self._graph = graph
        self._known = known
        self._given = given
        self._pool = 0
        self._first: dict[tuple[object, ...], Sequence[str]] = {}
        self._same: dict[tuple[int, str], str] = {}
        self._base: dict[str, str] = {}
        self.rewritten: dict[int, onnx.NodeProto] = {}
        self.targets: list[dict[str, Made]] = []

    def begin(self, pool: int) -> None:
        """The next part."""
        self._pool = pool
        self._base.clear()
        self.targets.append({})

    def take(self, index: int, node: onnx.NodeProto) -> None:
        """Decide how a node is written."""
        inputs = [self._same.get((self._pool, name), name) for name in node.input]
        if is_standard(node, "Reshape"):
            inputs = self._reshape(node, inputs)
        if _is_pure(node):
            self._merge(node, inputs)
        if inputs != list(node.input):
            copy = self.rewritten[index] = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = inputs
            if inputs[-1] in self.targets[-1]:
                copy.ClearField("attribute")  # allowzero, which would take a 0 at its word

    def _merge(self, node: onnx.NodeProto, inputs: Sequence[str]) -> None:
        """Common subexpressions: the first node of a pool that computes something serves the later ones."""
        attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
        which = tuple(bool(name) for name in node.output)
        key = (self._pool, node.domain, node.op_type, node.overload, which, *inputs, *attributes)
        first = self._first.setdefault(key, node.output)
        if first is not node.output:
            pairs = zip(node.output, first, strict=True)
            self._same.update(((self._pool, name), one) for name, one in pairs if name)

    def _reshape(self, node: onnx.NodeProto, inputs: list[str]) -> list[str]:
        """The inputs of a ``Reshape``: what the first in a row of them read, and a constant target."""
        base = self._base.get(inputs[0], inputs[0])
        self._base[node.output[0]] = node.output[0] if base in self._given else base
        target = self._target(node, base)
        if target is None or (base == inputs[0] and node.input[1] in self._graph.weights):
            return inputs
        if _keeps(target, self._shape(base)):
            self._same[self._pool, node.output[0]] = base
        name = f"target//{'x'.join(map(str, target))}"
        self.targets[-1][name] = Made(name, False, target)
        return [base, name]

    def _target(self, node: onnx.NodeProto, base: str) -> tuple[int, ...] | None:
        """What a ``Reshape`` of ``base`` is told extents, 0 for "as it is", a -1 for the rest."""
        given, shape, wanted = self._shape(base), self._shape(node.input[0]), self._known.get(node.input[1])
        literal = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
        if given is None or shape is None or wanted is None or (literal and Expr.of(0) in wanted):
            return None
        target = tuple(
            _extent(shape[axis] if element == Expr.of(0) else element, given[axis : axis + 1])
            for axis, element in enumerate(wanted)
        )
        never_empty = all(dim.symbols <= _NEVER_EMPTY for dim in given)
        return target if target.count(-1) <= (1 if never_empty else 0) else None

    def _shape(self, name: str) -> list[Expr] | None:
        value = self._graph.values.get(name)
        if value is None or value.shape is None:
            return None
        return [parse_dim(str(dim)) for dim in value.shape]


def _is_pure(node: onnx.NodeProto) -> bool:
    """Whether equal inputs give equal outputs, and nothing but its inputs matters."""
    bodies = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return not (
        is_constant(node)
        or node.op_type.startswith(_CHANCE)
        or any(attribute.type in bodies for attribute in node.attribute)
    )


def _extent(wanted: Expr, given: Sequence[Expr]) -> int:
    number = None if wanted.symbols else whole(wanted)
    if number is not None:
        return number
    return 0 if [wanted] == given else -1


def _keeps(target: Sequence[int], given: Sequence[Expr] | None) -> bool:
    """Whether a tensor of shape ``given`` has it still when it was reshaped to ``target``."""
    if given is None or len(target) != len(given):
        return False
    return all(extent in (0, -1) or Expr.of(extent) == dim for extent, dim in zip(target, given, strict=True))
