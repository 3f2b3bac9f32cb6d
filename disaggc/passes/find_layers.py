"""Blocks between residual joins, layers of blocks, and classes of equal layers.

The nodes that all flow from embedding to logits goes through are the joins of the residual stream.
What lies between two joins is a block, with the Add that ends it. An op that adds and norms at once
is the norm of the block behind it: its sum stays with whoever reads the stream on, and one tensor
goes into a block and one comes out, however an exporter writes the join. A block that touches state,
or multiplies activations by each other, opens a layer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.ir import WORKLOAD_SYMBOLS, Dim, Graph, Layer, Mark, Node, Role, parse_dim
from disaggc.passes.control import projecting
from disaggc.passes.flow import constant_nodes, kept, links, weightlike
from disaggc.passes.residual import Stream, main_stream
from disaggc.passes.vocabulary import Ops, Vocabulary, load_vocabulary


@dataclass(frozen=True)
class FindLayers:
    """Fills in ``graph.marks`` (block and layer of each node) and ``graph.layers``."""

    name: ClassVar[str] = "find-layers"
    vocabulary: Vocabulary

    @classmethod
    def load(cls, library: Path | None) -> FindLayers:
        """With the declared vocabulary."""
        return cls(load_vocabulary(library))

    def apply(self, graph: Graph) -> Graph:
        """A new graph whose marks say block and layer; a graph without layers keeps none."""
        stream = main_stream(graph, self.vocabulary.ops)
        blocks = _blocks(graph, self.vocabulary.ops, stream) if stream is not None else []
        owner = _owners(graph, blocks, stream.order if stream is not None else ())
        layer_of = _layers_of_blocks(graph, self.vocabulary.ops, blocks, owner)
        mark_of = {b: Mark(Role.GENERAL, layer, b, _NO_ROLE) for b, layer in layer_of.items()}
        outside = Mark(Role.GENERAL, None, None, _NO_ROLE)
        marks = tuple(outside if b is None else mark_of[b] for b in owner)
        return dataclasses.replace(graph, marks=marks, layers=_layers(graph, marks))


_NO_ROLE = "no role found yet"


def _blocks(graph: Graph, ops: Ops, stream: Stream) -> list[list[int]]:
    """Stream nodes by block; those before the first block and after the last stay outside.

    Regions without work (a scale after the embedding, a norm after a join) extend the block
    before them.
    """
    working = ops.projection | ops.attention | ops.experts
    constant, inner = constant_nodes(graph), projecting(graph, ops)

    def works(i: int) -> bool:
        return not constant[i] and (graph.nodes[i].kind in working or i in inner)

    blocks: list[list[int]] = []
    idle: list[int] = []
    for region in _regions(graph, ops, stream):
        if len(region) == 1 or not any(works(i) for i in region):
            idle.extend(region)
            continue
        if blocks:
            blocks[-1].extend(idle)
        idle = []
        blocks.append(region)
    return blocks


def _regions(graph: Graph, ops: Ops, stream: Stream) -> Iterator[list[int]]:
    """The stream cut after every point, and before one that adds and norms at once.

    That one leads the next region if it hands on its sum. Otherwise it is a region by itself, as the norm
    of the last sum is.
    """
    points = frozenset(stream.points)
    region: list[int] = []
    for i in stream.order:
        fused = i in points and graph.nodes[i].kind in ops.skip_norm
        if fused and region:
            yield region
            region = []
        region.append(i)
        if i in points and not (fused and _hands_on(graph, i)):
            yield region
            region = []


def _hands_on(graph: Graph, i: int) -> bool:
    """Whether others read more than one value of a node."""
    read = {name for j in links(graph).after[i] for name in graph.nodes[j].reads}
    return len(read.intersection(graph.nodes[i].writes)) > 1


def _owners(graph: Graph, blocks: list[list[int]], stream: Sequence[int]) -> list[int | None]:
    """The block of every node: its own, or for nodes beside the stream, that of its readers.

    A node that several blocks read belongs to none, unless it depends on a block: then it stays
    with the latest one that it depends on, so that no block waits for a later one.
    """
    owner: list[int | None] = [None] * len(graph.nodes)
    on_stream = frozenset(stream)
    for b, block in enumerate(blocks):
        for i in block:
            owner[i] = b
    around = links(graph)
    latest = _latest_dependence(around.before, owner)
    for i in reversed(range(len(graph.nodes))):
        if i not in on_stream:
            readers = {owner[j] for j in around.after[i]}
            alone = next(iter(readers)) if len(readers) == 1 else None
            owner[i] = alone if alone is not None else latest[i]
    return owner


def _latest_dependence(before: Sequence[tuple[int, ...]], owner: list[int | None]) -> list[int | None]:
    """For each node, the last block that it or anything that it depends on belongs to."""
    latest: list[int | None] = []
    for own, makers in zip(owner, before, strict=True):
        known = (own, *(latest[j] for j in makers))
        latest.append(max((b for b in known if b is not None), default=None))
    return latest


def _layers_of_blocks(
    graph: Graph, ops: Ops, blocks: list[list[int]], owner: list[int | None]
) -> dict[int, int]:
    """Block to layer; a block that attends opens the next layer."""
    opens = [False] * len(blocks)
    weights, touched = weightlike(graph, ops), state_names(graph)
    for node, b in zip(graph.nodes, owner, strict=True):
        if b is not None and not opens[b]:
            opens[b] = attends(node, ops, weights, touched)
    layer, found = -1, {}
    for b in range(len(blocks)):
        layer += opens[b] or layer < 0
        found[b] = layer
    return found


def attends(node: Node, ops: Ops, weights: Set[str], touched: Set[str]) -> bool:
    """Whether a node is an attention op, multiplies one activation by another, or touches state."""
    if node.kind in ops.attention:
        return True
    if node.kind in ops.projection and weights.isdisjoint(node.inputs[:2]):
        return True
    touches = not touched.isdisjoint(node.reads) or not touched.isdisjoint(node.writes)
    return touches and node.kind not in ops.metadata


@kept("states")
def state_names(graph: Graph) -> frozenset[str]:
    """The values that are state, before or after a step."""
    return frozenset(name for state in graph.states for name in (state.past, state.present))


def _layers(graph: Graph, marks: tuple[Mark, ...]) -> tuple[Layer, ...]:
    nodes: dict[int, list[int]] = {}
    for i, mark in enumerate(marks):
        if mark.layer is not None:
            nodes.setdefault(mark.layer, []).append(i)
    classes: dict[tuple[int, ...], int] = {}
    shapes: dict[tuple[object, ...], int] = {}
    layers = []
    for index in sorted(nodes):
        numbers = _numbered(graph, nodes[index], shapes)
        alike = sorted(zip(numbers, nodes[index], strict=True))
        layer_class = classes.setdefault(tuple(n for n, _ in alike), len(classes))
        layers.append(Layer(index, layer_class, tuple(i for _, i in alike)))
    return tuple(layers)


def _numbered(graph: Graph, nodes: list[int], shapes: dict[tuple[object, ...], int]) -> list[int]:
    """A number for each node: that of all nodes with its op, attributes, wiring, extents and element types.

    Wiring is followed back to the layer's inputs, so layers are equal if they have equal numbers equally
    often, in whatever order a file lists them. ``shapes`` keeps the numbers from layer to layer.
    """
    local: dict[str, tuple[int, int]] = {}
    found = []
    for i in nodes:
        node = graph.nodes[i]
        shape = (
            node.kind,
            tuple(sorted(node.attributes.items())),
            tuple(local.get(name) or _typed(graph, name) for name in node.inputs + node.captures),
            tuple(_typed(graph, name) for name in node.outputs),
            tuple(_fingerprint(body.graph) for body in graph.bodies.get(i, ())),
        )
        number = shapes.setdefault(shape, len(shapes))
        found.append(number)
        local.update((name, (number, o)) for o, name in enumerate(node.writes))
    return found


def _fingerprint(body: Graph) -> tuple[object, ...]:
    """A body by its ops and extents, in its own order."""
    numbers: dict[tuple[object, ...], int] = {}
    _numbered(body, list(range(len(body.nodes))), numbers)
    return tuple(numbers)


def _typed(graph: Graph, name: str) -> tuple[object, ...]:
    weight = graph.weights.get(name)
    if weight is not None:
        return (weight.dtype, weight.shape, "weight")
    value = graph.values.get(name)
    return () if value is None else (value.dtype, _anonymous(value.shape))


@functools.lru_cache(maxsize=4096)
def _anonymous(shape: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
    """A shape without an exporter's own names, which differ from layer to layer."""
    if shape is None:
        return None
    known = set(WORKLOAD_SYMBOLS)
    return tuple(d if isinstance(d, int) or parse_dim(d).symbols <= known else "?" for d in shape)
