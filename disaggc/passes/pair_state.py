"""Pairs graph inputs with the graph outputs that bring them back one step later.

A pair has one element type, shapes that agree but for at most one axis, and data flow from the
input to the output; the nearest such input wins, in the order of the op's own slots. Names are
not looked at.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.ir import Dim, Graph, Node, State, Value
from disaggc.passes.flow import links
from disaggc.passes.residual import INTEGERS
from disaggc.passes.vocabulary import Vocabulary, load_vocabulary

NEARBY = 256
"""Nodes looked at between an output and its input; a recurrent update takes a few dozen."""


@dataclass(frozen=True)
class PairState:
    """Fills in ``graph.states``."""

    name: ClassVar[str] = "pair-state"
    vocabulary: Vocabulary

    @classmethod
    def load(cls, library: Path | None) -> PairState:
        """With the declared vocabulary."""
        return cls(load_vocabulary(library))

    def apply(self, graph: Graph) -> Graph:
        """A new graph with ``states`` in the order of the nodes that update them."""
        outputs, free = set(graph.outputs), set(graph.inputs)
        written = ((i, name) for i, node in enumerate(graph.nodes) for name in node.writes if name in outputs)
        readers = self._readers(graph)
        states = []
        for i, name in written:
            past = next((p for p in _candidates(graph, i, name) if p in free), None)
            if past is not None:
                free.discard(past)
                updater = graph.nodes[min(i, readers.get(past, i))]
                states.append(self._state(graph, updater, past, name))
        return dataclasses.replace(graph, states=_beside_an_answer(graph, states))

    def _readers(self, graph: Graph) -> dict[str, int]:
        """Graph input to the first node that reads its content, not just its extents."""
        inputs, metadata = set(graph.inputs), self.vocabulary.ops.metadata
        first: dict[str, int] = {}
        for i, node in enumerate(graph.nodes):
            if node.kind not in metadata:
                for name in inputs.intersection(node.reads):
                    first.setdefault(name, i)
        return first

    def _state(self, graph: Graph, updater: Node, past: str, present: str) -> State:
        value, later = graph.values[past], graph.values[present]
        assert value.shape is not None and later.shape is not None and value.dtype is not None
        in_place = updater.kind in self.vocabulary.ops.in_place
        extents, batches = zip(value.shape, later.shape, strict=True), _batches(graph, past)
        grown = (a for a, (d, e) in enumerate(extents) if d != e and type(d) is type(e) and d not in batches)
        axis = next(grown, None)
        if axis is None:
            axis = _buffer_axis(updater, len(value.shape)) if in_place else _symbolic_axis(graph, past)
        heads, width = _extents(graph, value, axis, updater)
        window = updater.attributes.get("local_window_size", -1)
        windowed = int(window) if isinstance(window, int) and window > 0 else None
        ring = windowed is not None and updater.attributes.get("sliding_window_cache") == 1
        return State(past, present, axis, in_place, heads, width, value.dtype, windowed, ring)


def _beside_an_answer(graph: Graph, states: list[State]) -> tuple[State, ...]:
    """The states of a step that also answers: without another output, what keeps its shape is the answer."""
    if {state.present for state in states} < set(graph.outputs):
        return tuple(states)
    shapes = {name: value.shape for name, value in graph.values.items()}
    return tuple(s for s in states if s.in_place or shapes[s.past] != shapes[s.present])


def _candidates(graph: Graph, start: int, present: str) -> Iterator[str]:
    """Inputs of the right type that flow into the node ``start``, nearest first, in slot order."""
    inputs, before = frozenset(graph.inputs), links(graph).before
    target = graph.values[present]
    seen, queue = {start}, deque([start])
    while queue and len(seen) < NEARBY:
        i = queue.popleft()
        for name in graph.nodes[i].reads:
            if name in inputs and _alike(graph.values[name], target):
                yield name
        for j in before[i]:
            if j not in seen:
                seen.add(j)
                queue.append(j)


def _alike(past: Value, present: Value) -> bool:
    if past.shape is None or present.shape is None or past.dtype != present.dtype or past.dtype is None:
        return False
    if len(past.shape) != len(present.shape) or len(past.shape) < 2 or past.dtype in INTEGERS:
        return False
    differing = [(d, e) for d, e in zip(past.shape, present.shape, strict=True) if d != e]
    return len(differing) <= 1 and all(_may_grow(d, e) for d, e in differing)


def _may_grow(past: Dim, present: Dim) -> bool:
    """Whether one extent may become the other in a step: no state loses tokens, or ends at a number."""
    return isinstance(present, str) or (isinstance(past, int) and present > past)


def _symbolic_axis(graph: Graph, past: str) -> int | None:
    """The token axis of a buffer of symbolic capacity; state of fixed size has none."""
    batches, shape = _batches(graph, past), graph.values[past].shape or ()
    symbolic = [a for a, dim in enumerate(shape) if a > 0 and isinstance(dim, str) and dim not in batches]
    return symbolic[0] if len(symbolic) == 1 else None


def _batches(graph: Graph, past: str) -> set[Dim]:
    """What other inputs begin with is the batch: recurrent state is often [layers, batch, width]."""
    states = [name for name in graph.inputs if name != past]
    return {shape[0] for name in states if (shape := graph.values[name].shape) and isinstance(shape[0], str)}


def _buffer_axis(updater: Node, rank: int) -> int:
    """The token axis of a cache that is updated where it lies: TensorScatter's own, else [B, N, S, H]."""
    axis = updater.attributes.get("axis", -2)
    assert isinstance(axis, int)
    return axis % rank if updater.op == "TensorScatter" else rank - 2


def _extents(graph: Graph, value: Value, axis: int | None, updater: Node) -> tuple[int, int]:
    """Heads and elements a head of what one token adds (or of the whole state of a request)."""
    assert value.shape is not None
    rest = [d for a, d in enumerate(value.shape) if a not in (0, axis)]
    sizes = [d if isinstance(d, int) else _head_size(graph, updater) for d in rest]
    width = sizes[-1] if sizes else 1
    heads = 1
    for size in sizes[:-1]:
        heads *= size
    return heads, width


def _head_size(graph: Graph, updater: Node) -> int:
    """An extent that the exporter left symbolic: the head size, from the attention op's output."""
    heads = updater.attributes.get("num_heads")
    shape = graph.values[updater.outputs[0]].shape
    if isinstance(heads, int) and shape and isinstance(shape[-1], int) and shape[-1] % heads == 0:
        return shape[-1] // heads
    return 1
