"""From stages to subgraphs: the nodes of each, what it makes for itself, and what crosses between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from disaggc.backends.onnxruntime import (
    Boundary,
    Made,
    Part,
    Tidied,
    alive,
    borrowed,
    boundary,
    makeable,
    tidied,
)
from disaggc.ir import Graph
from disaggc.passes.contents import Contents
from disaggc.placement.stages import Span


def cut(
    source: onnx.ModelProto,
    graph: Graph,
    spans: Sequence[Span],
    paths: Sequence[str],
    known: Mapping[str, Contents],
) -> list[Part]:
    """The subgraphs of one phase, in execution order.

    Args:
        source: The model.
        graph: The same, analysed.
        spans: The stages.
        paths: The file of each.
        known: From ``contents``.

    Raises:
        PlanError: A stage reads what only a later one writes.
    """
    tidy = tidied(source, graph, [(span.place, span.nodes) for span in spans], known)
    nodes = [span.nodes for span in spans]
    made = _stage_makes(source, graph, spans, tidy, known)
    nodes = alive(source, nodes, made, tidy.rewritten)
    made = _made_once(source, spans, nodes, made)
    names = [[m.name for m in own] for own in made]
    sent = _sent(graph, boundary(source, nodes, names, tidy.rewritten), known)
    rewritten = borrowed(source, graph, nodes, sent, tidy.rewritten)
    borders = boundary(source, nodes, names, rewritten)
    return [
        Part(path, own, border.inputs, border.outputs, making, rewritten)
        for path, own, border, making in zip(paths, nodes, borders, made, strict=True)
    ]


def _stage_makes(
    source: onnx.ModelProto,
    graph: Graph,
    spans: Sequence[Span],
    tidy: Tidied,
    known: Mapping[str, Contents],
) -> list[tuple[Made, ...]]:
    """For each stage its constants, and the extents that another pool would have to send it."""
    constants = [[made.name for made in own] for own in tidy.targets]
    borders = boundary(source, [span.nodes for span in spans], constants, tidy.rewritten)
    extents = _extents(graph, spans, borders, known)
    return [(*own, *told) for own, told in zip(tidy.targets, extents, strict=True)]


def _extents(
    graph: Graph, spans: Sequence[Span], borders: Sequence[Boundary], known: Mapping[str, Contents]
) -> list[tuple[Made, ...]]:
    """For each stage the extents that another pool would have to send, and that it can tell by itself."""
    place_of = {name: span.place for span, b in zip(spans, borders, strict=True) for name in b.outputs}
    states = _states(graph)
    found = []
    for span, border, sent in zip(spans, borders, _sent(graph, borders, known), strict=True):
        foreign = [n for n in border.inputs if place_of.get(n, span.place) != span.place and n not in states]
        found.append(tuple(makeable(graph, foreign, sent, known)))
    return found


def _sent(graph: Graph, borders: Sequence[Boundary], known: Mapping[str, Contents]) -> list[tuple[str, ...]]:
    """For each stage the activations that others write and it reads."""
    states = _states(graph)
    written = {name for border in borders for name in border.outputs}
    return [
        tuple(n for n in b.inputs if n in written and n not in known and n not in states) for b in borders
    ]


def _states(graph: Graph) -> set[str]:
    return {name for state in graph.states for name in (state.past, state.present)}


def _made_once(
    source: onnx.ModelProto,
    spans: Sequence[Span],
    nodes: Sequence[Sequence[int]],
    made: Sequence[Sequence[Made]],
) -> list[tuple[Made, ...]]:
    """The same, but extents that one pool alone wants are made by its first stage and kept for others."""
    written = {name for own in nodes for i in own for name in source.graph.node[i].output}
    places: dict[str, set[int]] = {}
    for span, own in zip(spans, made, strict=True):
        for extent in own:
            places.setdefault(extent.name, set()).add(span.place)
    done: set[str] = set()
    once = []
    for own in made:
        kept = [extent for extent in own if extent.name not in done]
        done.update(m.name for m in kept if len(places[m.name]) == 1 and m.name not in written and m.is_read)
        once.append(tuple(kept))
    return once
