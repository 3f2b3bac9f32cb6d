"""Writes an LM head as several stages where its pool would else keep other micro-batches waiting.

What the stage does before the head is a stage of its own then, each block of the head's columns another;
the last also joins them and does what comes after. How many there should be, and why, says
``disaggc.placement.heads``; what becomes of the product, ``disaggc.backends.onnxruntime.blocks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx

from disaggc.backends.onnxruntime import Blocks, in_blocks, is_product
from disaggc.ir import Graph, Phase, Segment
from disaggc.placement.decide import Decision
from disaggc.placement.heads import HeadPieces, head_pieces
from disaggc.placement.stages import Span

Spans = Mapping[Phase, tuple[Span, ...]]


@dataclass(frozen=True, slots=True)
class Laid:
    """The stages of both phases.

    Attributes:
        spans: By phase.
        forms: The model that each is cut from, its own nodes first and with their numbers.
        graph: What is known of them.
        warnings: What a person should know about the head.
        whole: Of a phase whose head is in pieces, the stages that it has with the head as one.
        head: Which of those is the head.
    """

    spans: Spans
    forms: Mapping[Phase, onnx.ModelProto]
    graph: Graph
    warnings: tuple[str, ...] = ()
    whole: Spans = field(default_factory=dict)
    head: int = 0


def with_head_in_pieces(source: onnx.ModelProto, graph: Graph, decision: Decision, spans: Spans) -> Laid:
    """The stages with the head of the decode step in pieces where that helps and can be.

    Prefill is cut like decode where both have the same stages, and so the same subgraphs.

    Args:
        source: The model.
        graph: The same, analysed.
        decision: The chosen plan.
        spans: Its stages.
    """
    forms = dict.fromkeys(spans, source)
    wanted = head_pieces(decision, spans[Phase.DECODE])
    if wanted is None:
        return Laid(spans, forms, graph)
    blocks = _blocks(source, graph, wanted)
    if isinstance(blocks, str):
        return Laid(spans, forms, graph, (_whole(wanted, blocks),))
    cut = [phase for phase in spans if spans[phase] == spans[Phase.DECODE]]
    whole = _with_own_stage(spans[Phase.DECODE], wanted)
    head = wanted.span + bool(wanted.ahead)
    pieces = (*whole[:head], *_pieces(whole[head], wanted.segment, blocks), *whole[head + 1 :])
    known = {**graph.values, **{value.name: value for value in blocks.values}}
    return Laid(
        {**spans, **dict.fromkeys(cut, pieces)},
        {**forms, **dict.fromkeys(cut, blocks.form)},
        replace(graph, values=known),
        whole=dict.fromkeys(cut, whole),
        head=head,
    )


def _blocks(source: onnx.ModelProto, graph: Graph, wanted: HeadPieces) -> Blocks | str:
    """The model with the head's product in blocks; or why that can't be."""
    nodes = source.graph.node
    products = [i for i in wanted.segment.nodes if is_product(nodes[i])]
    if len(products) != 1:
        return f"it has {len(products)} products of matrices"
    (index,) = products
    result = graph.values.get(nodes[index].output[0])
    return in_blocks(source, graph.source, index, result, wanted.count)


def _whole(wanted: HeadPieces, why: str) -> str:
    return (
        f"the LM head ({wanted.time_us:,.0f} us of a step) stays one stage, behind which other micro-batches "
        f"wait, though {wanted.count} pieces would be better: {why}."
    )


def _with_own_stage(spans: tuple[Span, ...], wanted: HeadPieces) -> tuple[Span, ...]:
    """The stages, the head's apart from what comes before it and takes its time."""
    span, count = spans[wanted.span], len(wanted.ahead)
    parts = [part for part in (span.segments[:count], span.segments[count:]) if part]
    own = [Span(span.place, part, tuple(sorted(_nodes(part)))) for part in parts]
    return (*spans[: wanted.span], *own, *spans[wanted.span + 1 :])


def _pieces(whole: Span, head: Segment, blocks: Blocks) -> Iterator[Span]:
    """The stage of the head in pieces."""
    count, at = len(blocks.made), whole.segments.index(head)
    before, after = whole.segments[:at], whole.segments[at + 1 :]
    product = next(i for i in blocks.made[-1] if i in head.nodes)
    own = [i for i in head.nodes if i not in blocks.spare and i != product]
    nodes = [list(made) for made in blocks.made]
    nodes[0] = [*sorted([*_nodes(before), *(i for i in own if i < product)]), *nodes[0]]
    nodes[-1] = [
        *(i for i in head.nodes if i in blocks.spare),
        *nodes[-1],
        *sorted([*_nodes(after), *(i for i in own if i > product)]),
    ]
    segments: list[tuple[Segment, ...]] = [(head,)] * count
    segments[0], segments[-1] = (*before, *segments[0]), (*segments[-1], *after)
    for each, own_nodes in zip(segments, nodes, strict=True):
        yield Span(whole.place, each, tuple(own_nodes), count)


def _nodes(segments: Iterable[Segment]) -> Iterable[int]:
    return (i for segment in segments for i in segment.nodes)
