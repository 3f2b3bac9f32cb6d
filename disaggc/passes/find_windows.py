"""Attention windows that only a mask tells of.

Where no attribute says how far a layer looks back, its mask does: somewhere the position of a key is
compared with that of a query minus a constant ('k > q - 1024'). The comparison is followed through
the mask's arithmetic to the core attention that reads it, and bounds what its cache is read for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.ir import CACHED, NEW, Expr, Graph, Layer, Node, Role, parse_dim
from disaggc.passes.vocabulary import Vocabulary, load_vocabulary


@dataclass(frozen=True)
class FindWindows:
    """Fills in ``window`` of states whose attention op does not tell it."""

    name: ClassVar[str] = "find-windows"
    vocabulary: Vocabulary

    @classmethod
    def load(cls, library: Path | None) -> FindWindows:
        """With the declared vocabulary."""
        return cls(load_vocabulary(library))

    def apply(self, graph: Graph) -> Graph:
        """A new graph whose states know their windows; the same one if no mask tells any."""
        windows = _masks(graph, self.vocabulary.ops.movement)
        found = _of_blocks(graph, windows) if windows else {}
        block_of = _blocks_of_states(graph)
        states = tuple(
            dataclasses.replace(s, window=found.get(block_of.get(s.past, -1)))
            if s.window is None and s.axis is not None
            else s
            for s in graph.states
        )
        if states == graph.states:
            return graph
        return dataclasses.replace(graph, states=states, layers=_layers(graph, found))


@dataclass(frozen=True, slots=True)
class Position:
    """A tensor of positions: so many times a key's, so many times a query's, and a constant."""

    keys: int = 0
    queries: int = 0
    constant: int = 0

    def plus(self, other: Position, sign: int) -> Position:
        """The sum, or with ``sign`` -1 the difference."""
        return Position(
            self.keys + sign * other.keys,
            self.queries + sign * other.queries,
            self.constant + sign * other.constant,
        )


_COUNTED = {Expr.of(CACHED) + Expr.of(NEW): Position(keys=1), Expr.of(NEW): Position(queries=1)}
"""What a range of so many numbers counts."""


def _masks(graph: Graph, movement: frozenset[str]) -> dict[str, int]:
    """Mask values with the window that they leave open, in tokens."""
    positions = _positions(graph, movement)
    windows: dict[str, int] = {}
    for node in graph.nodes:
        window = _compared(node, positions) if node.kind in _STRICT else _combined(node, windows, movement)
        if window is not None:
            windows[node.writes[0]] = window
    return windows


def _positions(graph: Graph, movement: frozenset[str]) -> dict[str, Position]:
    """Integer values that are positions, or whole constants."""
    feeds = graph.workload.feeds if graph.workload is not None else {}
    known = {name: Position(queries=1) for name, kind in feeds.items() if kind == "position_ids"}
    for name, weight in graph.weights.items():
        if weight.integers is not None and len(weight.integers) == 1:
            known[name] = Position(constant=weight.integers[0])
    for node in graph.nodes:
        position = _position(graph, node, known, movement)
        if position is not None:
            known[node.writes[0]] = position
    return known


def _position(
    graph: Graph, node: Node, known: Mapping[str, Position], movement: frozenset[str]
) -> Position | None:
    if not node.writes:
        return None
    if node.kind == "Range":
        extent = (graph.values[node.writes[0]].shape or (1,))[0]
        counted = parse_dim(str(extent))
        return _COUNTED.get(counted)
    if node.kind in ("Add", "Sub"):
        first, second = (_or_offset(graph, name, known) for name in node.inputs[:2])
        sign = 1 if node.kind == "Add" else -1
        return first.plus(second, sign) if first is not None and second is not None else None
    return known.get(node.inputs[0]) if node.kind in movement and node.inputs[0] in known else None


def _or_offset(graph: Graph, name: str, known: Mapping[str, Position]) -> Position | None:
    """A position; a single number that is not known is where positions begin, the same for both."""
    if name in known:
        return known[name]
    value = graph.values.get(name)
    return Position() if value is not None and value.shape is not None and len(value.shape) == 0 else None


_STRICT = {"Greater": (1, 0), "GreaterOrEqual": (1, 1), "Less": (-1, 0), "LessOrEqual": (-1, 1)}
"""Comparison to the sign that makes it 'greater', and what it adds to a window's end."""


def _compared(node: Node, positions: Mapping[str, Position]) -> int | None:
    """The window of 'key - query + c > 0', which is c tokens; None if the comparison is no such thing."""
    first, second = (positions.get(name) for name in node.inputs[:2])
    if first is None or second is None:
        return None
    sign, closed = _STRICT[node.kind]
    gap = first.plus(second, -1) if sign > 0 else second.plus(first, -1)
    window = gap.constant + closed
    return window if (gap.keys, gap.queries) == (1, -1) and window > 0 and gap.constant > 0 else None


def _combined(node: Node, windows: Mapping[str, int], movement: frozenset[str]) -> int | None:
    """The window of masks that are joined or moved; a mask that opens more than it is no window any more."""
    if not node.writes or node.kind not in (*movement, *_JOINS):
        return None
    read = node.inputs[:1] if node.kind in (*movement, "Where") else node.inputs
    found = [windows[name] for name in read if name in windows]
    return min(found) if found else None


_JOINS = ("And", "Where", "Mul")
"""Where: the first input says which elements stay. A Mul joins masks of 0 and 1."""


def _of_blocks(graph: Graph, windows: Mapping[str, int]) -> dict[int, int]:
    """Block to the window of the mask that its core attention reads."""
    found: dict[int, int] = {}
    for mark, node in zip(graph.marks, graph.nodes, strict=True):
        if mark.role is Role.CORE_ATTENTION and mark.block is not None:
            for name in node.reads:
                if name in windows:
                    found[mark.block] = min(windows[name], found.get(mark.block, windows[name]))
    return found


def _layers(graph: Graph, windows: Mapping[int, int]) -> tuple[Layer, ...]:
    """The layers, those of one class apart that look back unequally far."""
    window_of: dict[int, set[int]] = {}
    for mark in graph.marks:
        if mark.layer is not None and mark.block is not None and mark.block in windows:
            window_of.setdefault(mark.layer, set()).add(windows[mark.block])
    classes: dict[tuple[int, tuple[int, ...]], int] = {}
    layers = []
    for layer in graph.layers:
        key = layer.layer_class, tuple(sorted(window_of.get(layer.index, ())))
        layers.append(dataclasses.replace(layer, layer_class=classes.setdefault(key, len(classes))))
    return tuple(layers)


def _blocks_of_states(graph: Graph) -> dict[str, int]:
    """Past state to the block of the first core attention node that reads it."""
    pasts = {state.past for state in graph.states}
    found: dict[str, int] = {}
    for mark, node in zip(graph.marks, graph.nodes, strict=True):
        if mark.block is not None and mark.role is Role.CORE_ATTENTION:
            for name in pasts.intersection(node.reads):
                found.setdefault(name, mark.block)
    return found
