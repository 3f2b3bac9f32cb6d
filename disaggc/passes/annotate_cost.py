"""Flops, weights, activations and state of every op, over the workload symbols.

What an op costs is worked out in cost/price.py, once for all ops that are alike; this pass tells it
what the op's values are: weights, activations that cross memory, state.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.cost import CostRules, Op, Operand, Price, load_rules, price
from disaggc.frontends import onnx_signatures
from disaggc.ir import Cost, Graph, Node, Role, State
from disaggc.passes.control import control_price
from disaggc.passes.find_layers import state_names
from disaggc.passes.flow import constant_nodes, looked_up, weightlike
from disaggc.passes.vocabulary import Ops, load_vocabulary


@dataclass(frozen=True)
class AnnotateCost:
    """Fills in ``graph.costs``."""

    name: ClassVar[str] = "annotate-cost"
    rules: CostRules
    ops: Ops

    @classmethod
    def load(cls, library: Path | None) -> AnnotateCost:
        """With the declared rules."""
        return cls(load_rules(onnx_signatures(), library), load_vocabulary(library).ops)

    def apply(self, graph: Graph) -> Graph:
        """A new graph with one cost a node, and a warning for each kind of op without flops."""
        prices = self._prices(graph)
        warnings = (*graph.warnings, *_complaints(graph.nodes, prices))
        return dataclasses.replace(graph, costs=tuple(p.cost for p in prices), warnings=warnings)

    def _prices(self, graph: Graph) -> list[Price]:
        """The price of every node; those of a control-flow node's bodies make up its own."""
        seen = _Seen.of(graph, self.rules, self.ops)
        known: dict[Op, Price] = {}

        @functools.cache
        def priced(i: int) -> Price:
            op = seen.op(i, graph.nodes[i])
            if op == FOLDED:
                return _FREE
            if i in graph.bodies:
                return control_price(graph, i, seen.weights, self._prices)
            if op not in known:
                known[op] = price(op, self.rules.by_op.get(op.kind))
            return known[op]

        return [priced(i) for i in _twins(graph, seen.reads)]


FOLDED = Op("folded", (), (), ())
"""What computes from weights alone: a server does so once, before any step."""

_FREE = Price(Cost("free"))


def _twins(graph: Graph, reads: Mapping[int, tuple[State, ...]]) -> list[int]:
    """For each node one that costs the same: in its place in the first layer that is like its own.

    Layers are alike if they are of one class, their roles are equal, and they pay for equal state: a
    layer that attends to another layer's cache does not.
    """
    twins = list(range(len(graph.nodes)))
    first: dict[object, tuple[int, ...]] = {}
    for layer in graph.layers:
        paid = tuple((k, tuple(map(_nameless, reads[i]))) for k, i in enumerate(layer.nodes) if i in reads)
        roles = tuple((m.role, m.routing, m.all_tokens) for m in map(graph.marks.__getitem__, layer.nodes))
        model = first.setdefault((layer.layer_class, roles, paid), layer.nodes)
        for i, twin in zip(layer.nodes, model, strict=True):
            twins[i] = twin
    return twins


def _nameless(state: State) -> State:
    return dataclasses.replace(state, past="", present="")


def _complaints(nodes: Sequence[Node], prices: list[Price]) -> Iterator[str]:
    """One warning for each kind of op that is priced without flops, and for each doubt."""
    for complaint, found in _where(nodes, [priced.complaint for priced in prices]):
        yield (
            f"{complaint}: {len(found)} priced by the bytes they read and write, first '{found[0]}'. "
            f"Declare the op in passes/costs/*.toml, here or in a folder of your own (--library)."
        )
    for doubt, found in _where(nodes, [priced.doubt for priced in prices]):
        cure = "Make them a constant or an extent to have them counted."
        yield f"{doubt}: {len(found)}, first '{found[0]}'. {cure}"


def _where(nodes: Sequence[Node], texts: list[str]) -> list[tuple[str, list[str]]]:
    """Each text with the names of its nodes, sorted; none for empty ones."""
    found: dict[str, list[str]] = {}
    for node, text in zip(nodes, texts, strict=True):
        if text:
            found.setdefault(text, []).append(node.name or ", ".join(node.writes))
    return sorted(found.items())


@dataclass(frozen=True)
class _Seen:
    """The graph as prices see it.

    Attributes:
        weights: Values that are weights.
        inner: Values that stay inside core attention, or are state or auxiliary.
        reads: Node to the states that it is the first to read.
        looked_up: Weights that are rows of a stack, as they come out of a lookup.
    """

    graph: Graph
    rules: CostRules
    weights: frozenset[str]
    constant: tuple[bool, ...]
    inner: frozenset[str]
    reads: Mapping[int, tuple[State, ...]]
    looked_up: frozenset[str]

    @classmethod
    def of(cls, graph: Graph, rules: CostRules, ops: Ops) -> _Seen:
        return cls(
            graph,
            rules,
            weightlike(graph, ops),
            constant_nodes(graph),
            _inside_cores(graph),
            _first_reads(graph, ops.metadata),
            looked_up(graph, ops),
        )

    def op(self, i: int, node: Node) -> Op:
        if self.constant[i]:
            return FOLDED
        inner = self.inner if node.kind in self.rules.by_op else state_names(self.graph)
        return Op(
            node.kind,
            tuple(node.attributes.items()),
            tuple(self._operand(name, inner) if name else None for name in node.inputs + node.captures),
            tuple(self._operand(name, inner) if name else None for name in node.outputs),
            self.graph.marks[i] if self.graph.marks else None,
            self.reads.get(i, ()),
        )

    def _operand(self, name: str, inner: frozenset[str]) -> Operand:
        weight = self.graph.weights.get(name)
        if weight is not None:
            return Operand(weight.shape, weight.dtype.bits, weight.integers is None, False)
        value = self.graph.values[name]
        bits = value.dtype.bits if value.dtype is not None else 0
        if name not in self.weights:
            return Operand(value.shape, bits, False, name not in inner)
        # Symbolic extents, or rows of a stack: looked up, and counted where they were looked up.
        fixed = value.shape is not None and all(isinstance(d, int) for d in value.shape)
        fixed = fixed and name not in self.looked_up
        return Operand(value.shape, bits, fixed and bits > 0, False)


def _first_reads(graph: Graph, metadata: frozenset[str]) -> dict[int, tuple[State, ...]]:
    """The first node that reads a state's content pays for it, however often it is copied after."""
    unread = {state.past: state for state in graph.states}
    reads: dict[int, tuple[State, ...]] = {}
    for i, node in enumerate(graph.nodes):
        if node.kind not in metadata:
            states = tuple(unread.pop(name) for name in dict.fromkeys(node.reads) if name in unread)
            if states:
                reads[i] = states
    return reads


def _inside_cores(graph: Graph) -> frozenset[str]:
    """Values that stay inside core attention or are state: an engine keeps them on chip or in its cache."""
    kept = set(state_names(graph))
    outside = set(graph.outputs)  # what some node reads that is no core attention
    for mark, node in zip(graph.marks, graph.nodes, strict=False):
        if mark.role is not Role.CORE_ATTENTION:
            outside.update(node.reads)
    for mark, node in zip(graph.marks, graph.nodes, strict=False):
        if mark.role is Role.AUXILIARY:
            kept.update(node.writes)
        elif mark.role is Role.CORE_ATTENTION:
            kept.update(name for name in node.writes if name not in outside)
    return frozenset(kept)
