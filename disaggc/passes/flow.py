"""Data flow that several passes ask about: neighbours, constants, and the points all flow goes through."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from disaggc.ir import Graph, Node
from disaggc.passes.vocabulary import Ops

_Options = ParamSpec("_Options")
_Fact = TypeVar("_Fact")
_Finder = Callable[Concatenate[Graph, _Options], _Fact]


def kept(*fields: str) -> Callable[[_Finder[_Options, _Fact]], _Finder[_Options, _Fact]]:
    """Keep what a function found out about the last graph, as passes share most of a graph.

    Args:
        fields: The fields of the graph that the answer hangs on; while they are the same objects,
            and the other arguments are equal, the function is not called again.
    """

    def keep(find: _Finder[_Options, _Fact]) -> _Finder[_Options, _Fact]:
        last: list[tuple[list[object], tuple[object, ...], _Fact]] = []

        @functools.wraps(find)
        def again(graph: Graph, /, *args: _Options.args, **kwargs: _Options.kwargs) -> _Fact:
            read = [getattr(graph, field) for field in fields]
            for held, options, fact in last:
                if all(a is b for a, b in zip(held, read, strict=True)) and options == (args, kwargs):
                    return fact
            last[:] = [(read, (args, kwargs), find(graph, *args, **kwargs))]
            return last[0][2]

        return again

    return keep


@dataclass(frozen=True, slots=True)
class Links:
    """Who reads whom: for each node, the nodes that it reads from and that read from it."""

    before: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]
    writer: dict[str, int]


@kept("nodes")
def links(graph: Graph) -> Links:
    """The neighbours of every node."""
    writer = graph.producers()
    before = tuple(tuple(dict.fromkeys(writer[n] for n in node.reads if n in writer)) for node in graph.nodes)
    after: list[list[int]] = [[] for _ in graph.nodes]
    for i, makers in enumerate(before):
        for j in makers:
            after[j].append(i)
    return Links(before, tuple(map(tuple, after)), writer)


@kept("nodes", "weights")
def constant_nodes(graph: Graph) -> tuple[bool, ...]:
    """For each node, whether it computes from weights alone, so that a server folds it away."""
    known = set(graph.weights)
    flags = []
    for node in graph.nodes:
        constant = node.op == "Constant" or (bool(node.reads) and known.issuperset(node.reads))
        flags.append(constant)
        if constant:
            known.update(node.writes)
    return tuple(flags)


@kept("nodes", "weights")
def weightlike(graph: Graph, ops: Ops) -> frozenset[str]:
    """Values that are weights: declared, computed from weights alone, or rows of a stacked weight.

    A lookup in a weight of three or more axes picks whole matrices (the experts of a token); what
    it returns is a weight still, until it meets an activation.
    """
    known = set(graph.weights)
    for node, constant in zip(graph.nodes, constant_nodes(graph), strict=True):
        moved = node.kind in ops.movement and node.inputs[0] in known
        if constant or moved or (node.kind in ops.lookup and _is_stack(graph, node, known)):
            known.update(node.writes)
    return frozenset(known)


@kept("nodes", "weights")
def looked_up(graph: Graph, ops: Ops) -> frozenset[str]:
    """Values that are rows of a stacked weight, as picked in this step, however they are moved after."""
    known, weights = set[str](), weightlike(graph, ops)
    for node, constant in zip(graph.nodes, constant_nodes(graph), strict=True):
        picked = node.kind in ops.lookup and node.outputs[0] in weights and not constant
        if picked or (node.kind in ops.movement and node.inputs[0] in known):
            known.update(node.writes)
    return frozenset(known)


def _is_stack(graph: Graph, node: Node, known: set[str]) -> bool:
    """Whether a lookup picks matrices, or one matrix, out of a stacked float weight."""
    value = graph.values.get(node.outputs[0])
    if node.inputs[0] not in known or value is None:
        return False
    rank = _rank(graph, node.inputs[0])
    return rank >= 3 and len(value.shape or ()) >= (2 if _rank(graph, node.inputs[1]) == 0 else 3)


_UNKNOWN = 99


def _rank(graph: Graph, name: str) -> int:
    weight = graph.weights.get(name)
    if weight is not None:
        return len(weight.shape)
    shape = graph.values[name].shape
    return _UNKNOWN if shape is None else len(shape)


def reach(start: Iterable[int], step: Callable[[int], Iterable[int]]) -> set[int]:
    """Every node that ``step`` leads to from ``start``, the start included."""
    seen = set(start)
    frontier = list(seen)
    while frontier:
        for other in step(frontier.pop()):
            if other not in seen:
                seen.add(other)
                frontier.append(other)
    return seen


def articulations(order: list[int], after: Callable[[int], Iterable[int]]) -> list[int]:
    """The nodes that every path from the first to the last node of ``order`` goes through.

    A node is one exactly when no edge jumps over it in topological order: a path that avoids it
    has such an edge, and an edge that jumps over it lies on a path that avoids it.

    Args:
        order: Nodes in topological order, each on some path from the first to the last.
        after: The nodes that read from a node; those outside ``order`` are passed over.
    """
    position = {node: i for i, node in enumerate(order)}
    furthest = 0
    found = []
    for i, node in enumerate(order):
        if furthest <= i:
            found.append(node)
        furthest = max(furthest, *(position.get(n, 0) for n in after(node)), 0)
    return found
