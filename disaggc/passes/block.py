"""One block of the residual stream, with the sets that role rules ask about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from disaggc.ir import Graph, Node, Role, Routing
from disaggc.passes.control import projecting
from disaggc.passes.find_layers import attends, state_names
from disaggc.passes.flow import constant_nodes, links, reach, weightlike
from disaggc.passes.residual import main_stream
from disaggc.passes.vocabulary import Ops


class Finding(NamedTuple):
    """What a rule says of a node; see ``ir.Mark``."""

    role: Role
    evidence: str
    routing: Routing | None = None
    all_tokens: bool = False


Found = dict[int, Finding]


@dataclass(frozen=True)
class Block:
    """The nodes between two joins of the residual stream.

    Attributes:
        nodes: In topological order.
        flow: Those that the token stream flows through; the rest feed them from the side.
        projections: Those that multiply an activation by weights.
        cores: Those that touch state, attend, or multiply two activations.
        weights: Values that are weights (see ``flow.weightlike``).
        before, after: For each node, those of this block that it reads from, and that read from it.
    """

    graph: Graph
    ops: Ops
    nodes: tuple[int, ...]
    flow: frozenset[int]
    projections: frozenset[int]
    cores: frozenset[int]
    weights: frozenset[str]
    before: Mapping[int, tuple[int, ...]]
    after: Mapping[int, tuple[int, ...]]

    def node(self, i: int) -> Node:
        """Node ``i`` of the graph."""
        return self.graph.nodes[i]

    def writer(self, name: str) -> int | None:
        """The node of this block that writes a value."""
        found = links(self.graph).writer.get(name)
        return found if found in self.after else None

    def downstream(self, start: Iterable[int]) -> set[int]:
        """What depends on ``start``, the start included."""
        return reach(start, self.after.__getitem__)

    def upstream(self, start: Iterable[int]) -> set[int]:
        """What ``start`` depends on, the start included."""
        return reach(start, self.before.__getitem__)

    def with_side_nodes(self, found: Found) -> Found:
        """Give nodes beside the stream the role of their first reader that has one."""
        for i in reversed(self.nodes):
            if i not in found:
                readers = [found[j] for j in self.after[i] if j in found]
                makers = [found[j] for j in self.before[i] if j in found]
                role = readers[0].role if readers else makers[-1].role if makers else Role.GENERAL
                found[i] = Finding(role, f"feeds {role} from beside the stream")
        return found


def blocks_of(graph: Graph, ops: Ops) -> list[Block]:
    """The blocks that ``find-layers`` marked, in order."""
    members: dict[int, list[int]] = {}
    for i, mark in enumerate(graph.marks):
        if mark.block is not None:
            members.setdefault(mark.block, []).append(i)
    stream = main_stream(graph, ops)
    flow = frozenset(stream.order) if stream is not None else frozenset()
    return [_block(graph, ops, nodes, flow) for _, nodes in sorted(members.items())]


def _block(graph: Graph, ops: Ops, nodes: list[int], flow: frozenset[int]) -> Block:
    around, inside = links(graph), frozenset(nodes)
    weights, constant, touched = weightlike(graph, ops), constant_nodes(graph), state_names(graph)
    work, inner = [i for i in nodes if not constant[i]], projecting(graph, ops)
    return Block(
        graph,
        ops,
        tuple(nodes),
        flow & inside,
        frozenset(i for i in work if _is_projection(graph.nodes[i], ops, weights) or i in inner),
        frozenset(i for i in work if attends(graph.nodes[i], ops, weights, touched)),
        weights,
        _within(around.before, nodes, inside),
        _within(around.after, nodes, inside),
    )


def _within(
    neighbours: Sequence[tuple[int, ...]], nodes: list[int], inside: frozenset[int]
) -> dict[int, tuple[int, ...]]:
    return {i: tuple(j for j in neighbours[i] if j in inside) for i in nodes}


def _is_projection(node: Node, ops: Ops, weights: frozenset[str]) -> bool:
    return node.kind in ops.experts or (node.kind in ops.projection and not weights.isdisjoint(node.inputs))


def those(nodes: Iterable[int], test: Callable[[int], bool]) -> set[int]:
    """The nodes that pass a test."""
    return {i for i in nodes if test(i)}
