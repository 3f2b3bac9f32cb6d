"""Folds a graph into what is placed: one piece for each role of each class of layers, and the flows between.

Eighty equal layers give one set of pieces with a count of eighty; a choice for a piece holds for all
of its layers. Flows keep count of how often they occur, within layers and from layer to layer.

Where only some of the layers may be parted, a piece without state is a *bundle* of layers: every other
one, every other one of the rest, and so on. Of 30 layers these are 15, 7, 4, 2, 1 and 1, whose sums are
all numbers up to 30; each bundle is spread evenly over the depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from disaggc.cost import Bill, Formats, Work, format_bits
from disaggc.ir import Graph, Role, Segment, State
from disaggc.placement.flows import Edge, edges_of, segment_of
from disaggc.targets import KINDS

COPIED = 64 * 1024
"""Weights of up to this many bytes are simply copied to whoever reads them."""

Key = tuple[int, int, str]
"""Layer class (-1 outside layers), slot in the layer, role."""

Members = list[tuple[Key, int, list[Segment]]]
"""The segments of each piece to be, with its key and bundle."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One role of one class of layers.

    Attributes:
        count: How many layers have it.
        segments: The segments that it stands for.
        work: What it takes, of one layer.
        kv_elements: Cache elements that one token of one request adds, in one layer.
        fixed_state: State elements that one request keeps whatever its length, in one layer.
        tables: Elements of lookup tables by stored bits: they lie in memory, a step reads rows of them.
        bundle: Which of the bundles that its class of layers is placed in; 0 is the largest, or the only.
    """

    key: Key
    role: Role
    count: int
    segments: tuple[int, ...]
    work: Work
    kv_elements: int
    fixed_state: int
    tables: Mapping[int, int] = field(default_factory=dict)
    bundle: int = 0

    @property
    def stored(self) -> dict[int, int]:
        """Elements of everything that lies in memory for one layer, by stored bits."""
        bill, found = self.work.bill, dict(self.tables)
        for kind in (bill.weight_elements, bill.expert_elements):
            for bits, elements in kind.items():
                found[bits] = found.get(bits, 0) + elements
        return found

    def resident_bytes(self, formats: Formats) -> float:
        """Bytes of all that lies in memory for one layer, in its serving format."""
        return sum(n * format_bits(formats.weights, bits) / 8 for bits, n in self.stored.items())

    @property
    def in_layers(self) -> bool:
        """Whether it repeats with layers."""
        return self.key[0] >= 0

    @property
    def has_state(self) -> bool:
        """Whether it keeps a cache or other state."""
        return bool(self.kv_elements or self.fixed_state)


@dataclass(frozen=True, slots=True)
class Tie:
    """A weight that several pieces read (an embedding that is the head, too): one copy where they meet.

    Attributes:
        pieces: Who reads it.
        elements: By stored bits.
    """

    pieces: tuple[int, ...]
    elements: Mapping[int, int]

    def resident_bytes(self, formats: Formats) -> float:
        """Bytes of one copy, in its serving format."""
        return sum(n * format_bits(formats.weights, bits) / 8 for bits, n in self.elements.items())


@dataclass(frozen=True, slots=True)
class Pieces:
    """A folded graph.

    Attributes:
        pieces: What is placed, in execution order of their first segment.
        edges: What flows between them.
        piece_of: Segment index to piece; auxiliary segments have none.
        layers: How many layers there are.
        state_bits, activation_bits: Stored bits per element.
        ties: Large weights that several pieces read.
    """

    pieces: tuple[Piece, ...]
    edges: tuple[Edge, ...]
    piece_of: dict[int, int]
    layers: int
    state_bits: int
    activation_bits: int
    ties: tuple[Tie, ...] = ()

    @property
    def kv_elements(self) -> int:
        """Cache elements that one token adds, all layers together."""
        return sum(p.kv_elements * p.count for p in self.pieces)

    def resident_bytes(self, formats: Formats) -> float:
        """Bytes of all weights of all layers, a tied one once for each of its readers."""
        return sum(p.resident_bytes(formats) * p.count for p in self.pieces)


def fold(graph: Graph, bundled: bool = False) -> Pieces:
    """The pieces and edges of a segmented graph. Masks and positions are made where they are needed.

    Args:
        graph: Analysed.
        bundled: Whether all but core attention may be placed unlike in layers that are alike.
    """
    groups: dict[Key, list[Segment]] = {}
    for segment in graph.segments:
        if segment.role is not Role.AUXILIARY:
            groups.setdefault(_key(segment), []).append(segment)
    state_bits = max((s.dtype.bits for s in graph.states), default=16)
    bits = state_bits, _activation_bits(graph)
    widths = _widths(graph)
    members = _alike(graph, groups, widths, bits)
    if bundled:
        members = _bundles(members)
    pieces = tuple(
        replace(_piece(graph, key, segments, widths, *bits), bundle=bundle)
        for key, bundle, segments in members
    )
    piece_of = {s: i for i, piece in enumerate(pieces) for s in piece.segments}
    edges = edges_of(graph, piece_of)
    return Pieces(pieces, tuple(edges), piece_of, len(graph.layers), *bits, _ties(graph, piece_of))


def _alike(
    graph: Graph, groups: Mapping[Key, list[Segment]], widths: dict[int, int], bits: tuple[int, int]
) -> Members:
    """The groups, those of different classes as one where they do the same work in the same place of a layer.

    An exporter may write one layer apart from its equals (a norm that the others fuse with the add before
    it); what is equal in both is still one choice.
    """
    ordinals: dict[tuple[int, str], int] = {}
    merged: dict[str, tuple[Key, list[Segment]]] = {}
    for key, members in groups.items():
        layer_class, _, role = key
        nth = ordinals[layer_class, role] = ordinals.get((layer_class, role), -1) + 1
        piece = _piece(graph, key, members, widths, *bits)
        same = (piece.work, piece.kv_elements, piece.fixed_state, piece.tables)
        apart = key if not piece.in_layers else (role, nth)
        merged.setdefault(repr((apart, same)), (key, []))[1].extend(members)
    return [(key, 0, sorted(members, key=lambda s: s.index)) for key, members in merged.values()]


def _bundles(members: Members) -> Members:
    """The same with every piece of layers that keeps no state parted into bundles of layers."""
    found: Members = []
    for key, bundle, segments in members:
        if segments[0].layer is None or segments[0].role is Role.CORE_ATTENTION or segments[0].states:
            found.append((key, bundle, segments))
            continue
        last = len(segments).bit_length()
        parted: dict[int, list[Segment]] = {}
        for nth, segment in enumerate(segments):
            parted.setdefault(_trailing_zeros(nth, last), []).append(segment)
        found += [(key, nth, parted[zeros]) for nth, zeros in enumerate(sorted(parted))]
    return found


def _trailing_zeros(number: int, most: int) -> int:
    """How often 2 divides a number; ``most`` for 0."""
    return (number & -number).bit_length() - 1 if number else most


def _key(segment: Segment) -> Key:
    if segment.layer_class is None:
        return (-1, segment.index, segment.role.value)
    return (segment.layer_class, segment.slot, segment.role.value)


def _piece(
    graph: Graph,
    key: Key,
    members: list[Segment],
    widths: dict[int, int],
    state_bits: int,
    activation_bits: int,
) -> Piece:
    first = members[0]
    keeps = any(graph.costs[i].state_read.terms for i in first.nodes)
    states = [graph.states[k] for k in first.states] if keeps else []
    bill = Bill.of((graph.costs[i] for i in first.nodes), state_bits, activation_bits)
    heads = min((s.heads for s in states), default=0)
    return Piece(
        key,
        first.role,
        len(members),
        tuple(s.index for s in members),
        Work(first.role, bill, first.launches, widths.get(first.index, 0), heads, _nodes(graph, first)),
        sum(s.heads * s.width for s in states if not _is_fixed(s)),
        sum(s.heads * s.width * (s.window or 1) for s in states if _is_fixed(s)),
        _tables(graph, first) if first.role is Role.EMBEDDING else {},
    )


def _nodes(graph: Graph, segment: Segment) -> tuple[tuple[str, int], ...]:
    """Kinds of the nodes that run in every step, and how many there are of each.

    What computes from weights alone is done when the graph is opened.
    """
    found: dict[str, int] = {}
    folded: set[str] = set()
    for i in segment.nodes:
        node, kind = graph.nodes[i], graph.costs[i].kind
        if all(name in graph.weights or name in folded for name in node.reads):
            folded.update(node.writes)
            continue
        kind = kind if kind in KINDS else "movement"
        found[kind] = found.get(kind, 0) + 1
    return tuple(found.items())


def _tables(graph: Graph, segment: Segment) -> dict[int, int]:
    """Elements, by stored bits, of the weights that a segment looks rows up in."""
    names = (n for i in segment.nodes for n in graph.nodes[i].reads if not graph.costs[i].weight_elements)
    found: dict[int, int] = {}
    for name in dict.fromkeys(names):
        weight = graph.weights.get(name)
        if weight is not None and weight.integers is None:
            found[weight.dtype.bits] = found.get(weight.dtype.bits, 0) + weight.elements
    return found


def _ties(graph: Graph, piece_of: Mapping[int, int]) -> tuple[Tie, ...]:
    """Weights worth placing once that are read in several pieces, by the pieces that read them."""
    owner = segment_of(graph)
    readers: dict[str, set[int]] = {}
    for i, node in enumerate(graph.nodes):
        if owner[i] in piece_of:
            for name in node.reads:
                if name in graph.weights and graph.weights[name].nbytes > COPIED:
                    readers.setdefault(name, set()).add(piece_of[owner[i]])
    found: dict[tuple[int, ...], dict[int, int]] = {}
    for name, pieces in readers.items():
        if len(pieces) > 1:
            weight, sums = graph.weights[name], found.setdefault(tuple(sorted(pieces)), {})
            sums[weight.dtype.bits] = sums.get(weight.dtype.bits, 0) + weight.elements
    return tuple(Tie(pieces, sums) for pieces, sums in sorted(found.items()))


def _is_fixed(state: State) -> bool:
    """Whether a state's size does not grow with the context: recurrent state, or a window's ring."""
    return state.axis is None or state.ring


def _widths(graph: Graph) -> dict[int, int]:
    """For each segment the widest activation that it hands on, in elements a token."""
    owner = segment_of(graph)
    readers = graph.consumers()
    outputs = set(graph.outputs)
    states = {n for s in graph.states for n in (s.past, s.present)}
    widths: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        for name in node.writes:
            leaves = name in outputs or any(owner[j] != owner[i] for j in readers.get(name, ()))
            shape = graph.values[name].shape
            if leaves and name not in states and shape and isinstance(shape[-1], int):
                widths[owner[i]] = max(widths.get(owner[i], 0), shape[-1])
    return widths


def _activation_bits(graph: Graph) -> int:
    """The element type of the first floating-point value on the stream."""
    for segment in graph.segments:
        if segment.role is not Role.AUXILIARY:
            for i in segment.nodes:
                for name in graph.nodes[i].writes:
                    dtype = graph.values[name].dtype
                    if dtype is not None and dtype.is_float:
                        return dtype.bits
    return 16
