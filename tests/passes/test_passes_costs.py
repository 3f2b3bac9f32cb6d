"""Costs hang on what an op computes: not on the layer it is priced in, its name or its place."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rewriting import renamed, shuffled, undocumented
from skeletons import HUGE, SKELETONS

from disaggc.frontends import open_model, read_graph
from disaggc.ir import Cost, Expr, Graph, Point
from disaggc.passes import load_pipeline, run
from disaggc.passes.annotate_cost import AnnotateCost

BUT_HUGE = [name for name in SKELETONS if name != HUGE]
POINT = Point(7.0, 11, 1013)
Skeleton = Callable[[str], Path]
Analysed = Callable[[str], Graph]


@pytest.mark.parametrize("name", SKELETONS)
def test_pricing_a_class_of_layers_once_prices_every_op_as_alone(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    alone = AnnotateCost.load(None).apply(dataclasses.replace(graph, layers=(), costs=()))
    assert alone.costs == graph.costs


@pytest.mark.parametrize("name", BUT_HUGE)
def test_names_metadata_and_order_change_no_cost(name: str, skeleton: Skeleton, analysed: Analysed) -> None:
    path = skeleton(name)
    model, order = shuffled(undocumented(renamed(open_model(path), seed=3)), seed=3)
    other = run(read_graph(path, model), load_pipeline())
    costs = analysed(name).costs
    assert [_amounts(c) for c in other.costs] == [_amounts(costs[i]) for i in order]
    # Which of a state's readers pays for it follows the order of nodes; what is paid in all does not.
    assert Counter(_states(other)) == Counter(_states(analysed(name)))


def _amounts(cost: Cost) -> tuple[object, ...]:
    """As numbers: an extent that is tied to no workload symbol keeps the exporter's name."""
    exprs = (cost.flops, cost.activation_in, cost.activation_out)
    weights = tuple(sorted(cost.weight_elements.items())), tuple(sorted(cost.expert_elements.items()))
    return (cost.kind, *weights, cost.routing, *(float(e.evaluate(POINT)) for e in exprs))


def _states(graph: Graph) -> list[Expr]:
    return [part for cost in graph.costs for part in (cost.state_read, cost.state_write) if part.terms]
