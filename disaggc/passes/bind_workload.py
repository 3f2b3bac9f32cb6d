"""Ties the graph to the workload: which input carries tokens, what every extent means.

The token input is the one whose flow passes through most single points, as a residual stream does;
position ids and masks feed every layer from the side and pass through none. Every extent is then
rewritten over the workload symbols batch, new and cached, whatever the exporter called them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from disaggc.ir import BATCH, CACHED, NEW, Body, Dim, Expr, Graph, Value, Workload, parse_dim
from disaggc.passes.flow import links, reach
from disaggc.passes.residual import INTEGERS, main_stream
from disaggc.passes.vocabulary import Vocabulary, load_vocabulary

BOUND = frozenset((BATCH, NEW, CACHED))
Bindings = dict[str, Expr]


@dataclass(frozen=True)
class BindWorkload:
    """Fills in ``graph.workload`` and rewrites the shapes of all values."""

    name: ClassVar[str] = "bind-workload"
    vocabulary: Vocabulary

    @classmethod
    def load(cls, library: Path | None) -> BindWorkload:
        """With the declared vocabulary."""
        return cls(load_vocabulary(library))

    def apply(self, graph: Graph) -> Graph:
        """A new graph over workload symbols; without a token stream it is returned as it is."""
        stream = main_stream(graph, self.vocabulary.ops)
        if stream is None:
            return dataclasses.replace(graph, warnings=(*graph.warnings, _NO_STREAM))
        symbols = _symbols(graph, stream.tokens)
        _solve_reshapes(graph, symbols)
        values = MappingProxyType(_over_workload(graph.values, symbols))
        bodies = {i: _bound_bodies(own, symbols) for i, own in graph.bodies.items()}
        bound = dataclasses.replace(graph, values=values, bodies=MappingProxyType(bodies))
        workload = Workload(
            stream.tokens,
            MappingProxyType(_feeds(bound, stream.tokens, self.vocabulary)),
            MappingProxyType(symbols),
            stream.logits,
        )
        return dataclasses.replace(bound, workload=workload, warnings=(*graph.warnings, *_unbound(values)))


_NO_STREAM = (
    "No stream of tokens from an embedding to logits was found, so this is no decoder to serve in phases: "
    "ops are priced one by one, without layers or roles."
)


def _symbols(graph: Graph, tokens: str) -> Bindings:
    """The exporter's symbols, from the token input, the caches and the masks."""
    found: Bindings = {}
    shape = graph.values[tokens].shape or ()
    axes = (BATCH, NEW) if len(shape) > 1 else (NEW,)
    for dim, symbol in zip(shape, axes, strict=False):
        _bind(found, dim, Expr.of(symbol))
    for state in graph.states:
        past, present = graph.values[state.past].shape, graph.values[state.present].shape
        assert past is not None and present is not None
        _bind(found, past[0], Expr.of(BATCH))
        if state.axis is not None:
            _bind(found, past[state.axis], _TOTAL if past == present else Expr.of(CACHED))
            _bind(found, present[state.axis], _TOTAL)
            _bind(found, past[-1], Expr.of(state.width))
    for name in graph.inputs:
        if name != tokens and all(name != s.past for s in graph.states):
            _bind_side_input(found, graph.values[name].shape or ())
    return found


_TOTAL = Expr.of(CACHED) + Expr.of(NEW)


def _bind(found: Bindings, dim: Dim, meaning: Expr) -> None:
    """Give a dim that is one lone symbol its meaning, unless the symbol has one."""
    expr = parse_dim(str(dim))
    for symbol in expr.symbols:
        if expr == Expr.of(symbol):
            found.setdefault(symbol, meaning)


def _bind_side_input(found: Bindings, shape: tuple[Dim, ...]) -> None:
    """A mask or a list of positions: [batch], [batch, new] or [batch, total]."""
    if shape:
        _bind(found, shape[0], Expr.of(BATCH))
    for dim in shape[1:]:
        _bind(found, dim, _TOTAL)
        unknown = sorted(parse_dim(str(dim)).symbols - found.keys())
        parts = (CACHED, NEW) if len(unknown) == 2 else (CACHED,)
        found.update((u, Expr.of(p)) for u, p in zip(unknown, parts, strict=False))


def _over_workload(values: Mapping[str, Value], symbols: Mapping[str, Expr]) -> dict[str, Value]:
    """The values with every extent over workload symbols; each spelling is worked out once."""
    meaning: dict[Dim, Dim] = {dim: _dim(dim, symbols) for dim in _spellings(values)}
    return {
        name: Value(name, value.dtype, tuple([meaning.get(d, d) for d in value.shape]))
        if value.shape is not None and not meaning.keys().isdisjoint(value.shape)
        else value
        for name, value in values.items()
    }


def _bound_bodies(bodies: tuple[Body, ...], symbols: Mapping[str, Expr]) -> tuple[Body, ...]:
    """Bodies over workload symbols, those within them included."""
    found = []
    for body in bodies:
        inner = {i: _bound_bodies(own, symbols) for i, own in body.graph.bodies.items()}
        values = MappingProxyType(_over_workload(body.graph.values, symbols))
        graph = dataclasses.replace(body.graph, values=values, bodies=MappingProxyType(inner))
        found.append(dataclasses.replace(body, graph=graph))
    return tuple(found)


def _spellings(values: Mapping[str, Value]) -> Counter[str]:
    """How often each symbolic extent is written."""
    return Counter(dim for value in values.values() for dim in value.shape or () if isinstance(dim, str))


def _dim(dim: str, symbols: Mapping[str, Expr]) -> Dim:
    expr = parse_dim(dim).substitute(symbols)
    constant = expr.constant
    return int(constant) if constant is not None else str(expr)


def _solve_reshapes(graph: Graph, found: Bindings) -> None:
    """Bind a symbol that a Reshape introduces: the element count stays the same."""
    for node in graph.nodes:
        if node.op != "Reshape" or node.domain:
            continue
        before, after = _extents(graph, node.inputs[0], found), _extents(graph, node.outputs[0], found)
        unknown = after.symbols - BOUND
        if len(unknown) == 1 and not before.symbols - BOUND and len(after.terms) == 1:
            symbol = next(iter(unknown))
            with contextlib.suppress(ValueError):  # a power of the symbol, or no multiple: stays unknown
                found[symbol] = before / after.substitute({symbol: Expr.of(1)})


def _extents(graph: Graph, name: str, found: Bindings) -> Expr:
    """The element count of a value, as far as symbols are bound."""
    value = graph.values.get(name)
    shape = (value.shape if value is not None else None) or ()
    return Expr.product(parse_dim(str(dim)).substitute(found) for dim in shape)


def _feeds(graph: Graph, tokens: str, vocabulary: Vocabulary) -> dict[str, str]:
    """What each input that is no state must be fed."""
    pasts = {state.past for state in graph.states}
    feeds = {}
    for name in graph.inputs:
        if name not in pasts:
            feeds[name] = "token_ids" if name == tokens else _feed(graph, name, vocabulary)
    return feeds


def _feed(graph: Graph, name: str, vocabulary: Vocabulary) -> str:
    """By its extents, else by the op input that it ends in."""
    value = graph.values[name]
    if value.shape == (BATCH, NEW) and value.dtype in INTEGERS:
        return "position_ids"
    if len(value.shape or ()) == 2 and parse_dim(str((value.shape or ())[1])) == _TOTAL:
        return "attention_mask"
    return _feed_by_reader(graph, name, {(slot.op, slot.input): slot.kind for slot in vocabulary.feed})


def _feed_by_reader(graph: Graph, name: str, slots: Mapping[tuple[str, int], str]) -> str:
    after = links(graph).after
    carried = {name}
    readers = [i for i, node in enumerate(graph.nodes) if name in node.reads]
    for i in sorted(reach(readers, lambda i: after[i] if graph.nodes[i].op in _CARRIERS else ())):
        node = graph.nodes[i]
        for slot, read in enumerate(node.inputs):
            if read in carried and (node.kind, slot) in slots:
                return slots[node.kind, slot]
        if node.op in _CARRIERS:
            carried.update(node.writes)
    return "unknown"


_CARRIERS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def _unbound(values: Mapping[str, Value]) -> list[str]:
    """A warning if extents are left that no workload symbol explains."""
    unknown: Counter[str] = Counter()
    for dim, count in _spellings(values).items():
        unknown.update(dict.fromkeys(parse_dim(dim).symbols - BOUND, count))
    if not unknown:
        return []
    names = ", ".join(f"'{s}' ({n}x)" for s, n in sorted(unknown.items())[:4])
    more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
    return [f"{len(unknown)} extents are tied to no workload symbol and priced as 1: {names}{more}."]
