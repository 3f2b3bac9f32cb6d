"""The graphs that one stage becomes: one for each turn of its owner, and one a shard where they share a turn.

Names say whose value it is: ``v`` is what shard 0 or another pool has, ``v@2`` what shard 2 has, be it its
own copy or its term of a partial sum. Whoever reads a partial sum gets all its terms, and adds them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from disaggc.backends.onnxruntime.nodes import with_inputs
from disaggc.backends.onnxruntime.parts import reads
from disaggc.backends.sharding import experts, rows
from disaggc.backends.sharding.columns import Whole, Work
from disaggc.backends.sharding.drawing import Drawing, model_of
from disaggc.backends.sharding.linear import draw_partial
from disaggc.backends.sharding.lookups import partial_lookup
from disaggc.backends.sharding.scheme import Scheme, Seed
from disaggc.backends.sharding.stage_graph import StageGraph
from disaggc.errors import PlanError

Sums = Mapping[str, frozenset[int]]
"""Partial sums of earlier stages, and the shards that have a term of each."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One turn of one shard.

    Attributes:
        level: Its turn within the stage.
        shard: Whose.
        is_shared: Whether other shards take the same turn.
        model: Its graph.
        nodes: Nodes of the uncut stage that it computes, whole or in part.
    """

    level: int
    shard: int
    is_shared: bool
    model: onnx.ModelProto
    nodes: tuple[int, ...]


def own_name(value: str, shard: int) -> str:
    """A shard's own copy, or its term."""
    return f"{value}@{shard}"


def value_of(name: str) -> str:
    """The value of the uncut stage that a name stands for."""
    value, _, shard = name.rpartition("@")
    return value if value and shard.isdigit() else name


def segments_of(stage: StageGraph, scheme: Scheme, shards: int, arriving: Sums) -> tuple[Segment, ...]:
    """The graphs of a stage that is shared out, in order of execution.

    Args:
        stage: The uncut stage.
        scheme: How it is shared out.
        shards: Into how many.
        arriving: Partial sums that it reads.
    """
    nodes: dict[int, list[int]] = defaultdict(list)
    for i, level in scheme.level.items():
        nodes[level].append(i)
    turns = [
        (level, shard)
        for level, own in sorted(nodes.items())
        for shard in range(shards if own[0] in scheme.shared else 1)
    ]
    needed = _leaving(stage, scheme)
    found = []
    for turn in reversed(turns):
        segment = _Turn(stage, scheme, turn, nodes[turn[0]], arriving).drawn(needed)
        if segment is not None:
            needed |= {value.name for value in segment.model.graph.input}
            found.append(segment)
    return tuple(reversed(found))


def received(model: onnx.ModelProto, arriving: Sums) -> onnx.ModelProto:
    """A stage that is not cut, with the sum of what arrives in terms in front of it."""
    if not any(value.name in arriving for value in model.graph.input):
        return model
    drawing, inputs = Drawing(), []
    for value in model.graph.input:
        terms = [own_name(value.name, shard) for shard in sorted(arriving.get(value.name, ()))]
        if terms:
            drawing.total(terms, value.name)
        inputs += [onnx.ValueInfoProto(name=name, type=value.type) for name in terms or [value.name]]
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.input[:], changed.graph.node[:]
    changed.graph.input.extend(inputs)
    changed.graph.node.extend([*drawing.nodes, *model.graph.node])
    return changed


def _leaving(stage: StageGraph, scheme: Scheme) -> set[str]:
    """What others read of a stage, by the names of this module."""
    found: set[str] = set()
    for name in stage.outputs:
        terms = scheme.partial.get(name)
        found.update([name] if terms is None else [own_name(name, shard) for shard in terms])
    return found


class _Turn:
    """Draws one turn of one shard: forwards through the stage, and then what nothing needs is dropped."""

    def __init__(
        self, stage: StageGraph, scheme: Scheme, turn: tuple[int, int], nodes: Sequence[int], arriving: Sums
    ) -> None:
        self._stage, self._scheme, self._arriving = stage, scheme, arriving
        self._level, self._shard = turn
        self._nodes, self._is_shared = nodes, nodes[0] in scheme.shared
        self._drawing = Drawing()
        self._types: dict[str, str] = {}
        self._node_of: dict[str, int] = {}
        self._work = Work(stage, self._drawing, self._full, self._is_here)

    def drawn(self, needed: set[str]) -> Segment | None:
        """The segment that gives what is needed of it; None if it is nothing."""
        for i in self._nodes:
            self._draw(i, self._stage.nodes[i])
        outputs = [name for name in self._node_of if name in needed]
        if not outputs:
            return None
        drawn = self._drawing.needed(outputs)
        nodes = [*self._constants_of(drawn), *drawn]
        kept = {name for node in nodes for name in node.output}
        own = sorted({i for name, i in self._node_of.items() if name in kept})
        return Segment(self._level, self._shard, self._is_shared, self._model(nodes, outputs), tuple(own))

    def _constants_of(self, drawn: Sequence[NodeProto]) -> list[NodeProto]:
        """The nodes that make the constants which others read."""
        written = {name for node in drawn for name in node.output}
        open_ones = [name for node in drawn for name in reads(node)]
        found: set[int] = set()
        while open_ones:
            name = open_ones.pop()
            index = self._stage.producer.get(name) if name not in written else None
            if index is not None and name in self._stage.folded and index not in found:
                found.add(index)
                open_ones.extend(reads(self._stage.nodes[index]))
        return [self._stage.nodes[index] for index in sorted(found)]

    def _is_here(self, index: int) -> bool:
        return self._scheme.level.get(index) == self._level

    def _draw(self, index: int, node: NodeProto) -> None:
        seed = self._scheme.seeds.get(index)
        name = node.output[0] if node.output else ""
        if seed is not None:
            if self._shard in self._scheme.partial[name]:
                self._draw_seed(index, node, seed)
        elif name in self._scheme.partial:
            if self._shard in self._scheme.partial[name]:
                self._draw_linear(index, node)
        else:
            self._copy(index, node, [self._local(output) for output in node.output])

    def _draw_seed(self, index: int, node: NodeProto, seed: Seed) -> None:
        output = self._note(node.output[0], index)
        if seed.rule == "expert term":
            self._copy(index, node, [output])
            return
        cut, is_first = seed.cuts[self._shard], self._shard == 0
        found: str | Whole
        if seed.rule == "row parallel":
            found = rows.partial_product(self._work, index, cut, is_first, output)
        elif seed.lookup is not None:
            found = partial_lookup(self._work, seed.lookup, cut, output)
        elif seed.rule == "expert parallel":
            found = experts.partial_experts(self._work, node, cut, output)
        else:
            found = experts.partial_width(self._work, node, cut, is_first, output)
        if isinstance(found, Whole):
            raise PlanError(f"'{self._stage.path}' can't be cut: {found.reason}.")

    def _draw_linear(self, index: int, node: NodeProto) -> None:
        partial = self._scheme.partial
        summed = {name: own_name(name, self._shard) for name in node.input if name in partial}
        here = {name for name in summed if self._shard in partial[name]}
        for name in here:
            self._types[summed[name]] = name
        is_first = self._shard == min(partial[node.output[0]])
        output = self._note(node.output[0], index)
        draw_partial(self._work, node, summed, here, is_first, output)

    def _copy(self, index: int, node: NodeProto, outputs: list[str]) -> None:
        """A node as it is; one with bodies is owned, where every name is the uncut stage's."""
        for name in reads(node):
            self._full(name)
        self._drawing.add(with_inputs(node, [self._full(name) for name in node.input], outputs))
        self._node_of.update((name, index) for name in outputs if name)
        self._types.update((n, whole) for n, whole in zip(outputs, node.output, strict=True) if n)

    def _note(self, value: str, index: int) -> str:
        name = own_name(value, self._shard)
        self._node_of[name], self._types[name] = index, value
        return name

    def _local(self, value: str) -> str:
        return value if not value or self._shard == 0 else own_name(value, self._shard)

    def _full(self, value: str) -> str:
        """The name under which a whole value is here; where it arrives in terms, their sum."""
        if not value or value in self._stage.folded:
            return value
        index = self._stage.producer.get(value)
        if index is not None and index not in self._scheme.level:
            self._extents(index)
            return value
        terms = self._arriving.get(value) if index is None else self._scheme.partial.get(value)
        if terms is not None:
            names = [own_name(value, shard) for shard in sorted(terms)]
            self._types.update(dict.fromkeys(names, value))
            return value if self._drawing.has(value) else self._drawing.total(names, value)
        name = self._local(value) if index in self._scheme.shared else value
        self._types[name] = value
        return name

    def _extents(self, index: int) -> None:
        """Add a node that needs no place, and what it reads of such, unless it is there."""
        node = self._stage.nodes[index]
        if not any(self._drawing.has(name) for name in node.output if name):
            inputs = [self._full(name) for name in node.input]
            self._drawing.add(with_inputs(node, inputs, node.output))

    def _model(self, nodes: list[NodeProto], outputs: list[str]) -> onnx.ModelProto:
        written = {name for node in nodes for name in node.output}
        used = dict.fromkeys(name for node in nodes for name in reads(node))
        tensors = (self._drawing.constants.get(n) or self._stage.tensors.get(n) for n in used)
        constants = {tensor.name: tensor for tensor in tensors if tensor is not None}
        entering = [
            n for n in used if n not in written and n not in constants and n not in self._stage.folded
        ]
        source = self._stage.model
        typed = self._stage.type_of
        inputs = {name: typed(self._types[name]) for name in entering}
        leaving = {name: typed(self._types[name]) for name in outputs}
        model = model_of(source, "shard", nodes, inputs, leaving)
        model.graph.initializer.extend(constants.values())
        sparse = source.graph.sparse_initializer
        model.graph.sparse_initializer.extend(t for t in sparse if t.values.name in used)
        return model
