"""One phase of a plan: stages with their predicted times, and what crosses between pools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from disaggc.cost import format_bits
from disaggc.ir import Expr, Graph, Phase, Point, parse_dim
from disaggc.placement.decide import Decision
from disaggc.placement.stages import Span, span_times
from disaggc.plans import PhasePlan, Stage, Transfer

US = 1e6
Border = tuple[tuple[str, ...], tuple[str, ...]]
"""Inputs and outputs of a stage's subgraph."""


def phase_plan(
    graph: Graph,
    decision: Decision,
    spans: Sequence[Span],
    borders: Sequence[Border],
    paths: Sequence[str],
    phase: Phase,
) -> PhasePlan:
    """The stages and transfers of a phase.

    Args:
        graph: The model.
        decision: The chosen plan.
        spans: Its stages in order.
        borders: What each stage's subgraph takes and gives, states included.
        paths: The subgraphs' files.
        phase: Which phase.
    """
    state_names = {n for s in graph.states for n in (s.past, s.present)}
    stages = []
    for i, (span, (inputs, outputs), path) in enumerate(zip(spans, borders, paths, strict=True)):
        times = span_times(decision.request.pieces, decision.answer, span, phase)
        held = [k for k, s in enumerate(graph.states) if s.past in inputs or s.present in outputs]
        stages.append(
            Stage(
                index=i,
                pool=_pool(decision, span.place),
                layers=span.layers,
                roles=span.roles,
                subgraph=path,
                inputs=tuple(n for n in inputs if n not in state_names),
                outputs=tuple(n for n in outputs if n not in state_names),
                states=tuple(held),
                time_us=float(times.total) * US,
                bottleneck=times.bottleneck(),
                launches=sum(s.launches for s in span.segments),
            )
        )
    transfers = tuple(_transfers(graph, decision, spans, stages, phase))
    return PhasePlan(tuple(_occupied(decision, spans, stages, transfers)), transfers)


def _occupied(
    decision: Decision, spans: Sequence[Span], stages: Sequence[Stage], transfers: Sequence[Transfer]
) -> Iterator[Stage]:
    """The stages with what messages take of them: of who sends, and of the next stage of who receives."""
    pricing = decision.answer.configuration.pricing
    places = {stage.pool: span.place for stage, span in zip(stages, spans, strict=True)}
    added = dict.fromkeys(range(len(stages)), 0.0)
    for transfer in transfers:
        seconds = pricing.occupancy_seconds(places[transfer.source], places[transfer.target])
        reader = next(s.index for s in stages[transfer.after + 1 :] if s.pool == transfer.target)
        added[transfer.after] += seconds
        added[reader] += seconds
    for stage in stages:
        yield replace(stage, time_us=stage.time_us + added[stage.index] * US)


def _pool(decision: Decision, place: int) -> str:
    return decision.answer.configuration.pricing.names[place]


def _transfers(
    graph: Graph, decision: Decision, spans: Sequence[Span], stages: Sequence[Stage], phase: Phase
) -> list[Transfer]:
    """What each stage sends to other pools, one message to each."""
    places = {stage.pool: span.place for stage, span in zip(stages, spans, strict=True)}
    return [
        _transfer(graph, decision, stage, pool, names, places, phase)
        for stage, pool, names in crossings(stages)
    ]


def crossings(stages: Sequence[Stage]) -> Iterator[tuple[Stage, str, tuple[str, ...]]]:
    """For each stage, each other pool that reads what it writes, and which of its outputs that is."""
    for stage in stages:
        wanted: dict[str, dict[str, None]] = {}
        for later in stages[stage.index + 1 :]:
            if later.pool != stage.pool:
                crossing = (name for name in later.inputs if name in stage.outputs)
                wanted.setdefault(later.pool, {}).update(dict.fromkeys(crossing))
        yield from ((stage, pool, tuple(names)) for pool, names in wanted.items() if names)


def _transfer(
    graph: Graph,
    decision: Decision,
    stage: Stage,
    pool: str,
    names: tuple[str, ...],
    places: dict[str, int],
    phase: Phase,
) -> Transfer:
    pricing, configuration = decision.answer.configuration.pricing, decision.answer.configuration
    element = format_bits(pricing.formats.activations, pricing.pieces.activation_bits) / 8
    elements = Expr.total([_elements(graph, name) for name in names])
    load = decision.request.load
    if phase is Phase.DECODE:
        point = Point(configuration.batch, load.step_tokens, load.decode_cached)
        tokens = configuration.batch * load.step_tokens
    else:
        point, tokens = Point(1, load.input_tokens, load.cached_tokens), load.input_tokens
    payload = float(elements.evaluate(point)) * element
    seconds = sum(pricing.transfer_seconds(places[stage.pool], places[pool], payload))
    return Transfer(stage.index, stage.pool, pool, names, payload / tokens, seconds * US)


def _elements(graph: Graph, name: str) -> Expr:
    count = Expr.of(1)
    for dim in graph.values[name].shape or ():
        count = count * parse_dim(str(dim))
    return count
