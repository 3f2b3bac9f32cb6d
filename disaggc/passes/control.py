"""What control-flow nodes take: a Loop or Scan its body times its trips, an If its dearer branch.

Weights are read once a step however many trips read them, as everywhere (cost/price.py). In a mixture
of experts written as a loop, the routing says which of them a step reads and how many tokens each
expert gets; the exporter's own extents for those ('how many tokens chose this one') are data.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from disaggc.cost import Price
from disaggc.ir import BATCH, NEW, WORKLOAD_SYMBOLS, Cost, Expr, Graph, Mark, Point, Value, Weight, parse_dim
from disaggc.passes.contents import contents
from disaggc.passes.flow import constant_nodes, kept, weightlike
from disaggc.passes.vocabulary import Ops

TYPICAL = Point(8.0, 1, 1024)
"""Where the branches of an If are compared: a decode step of a few requests."""

_COMPLAINT, _DOUBT = operator.attrgetter("complaint"), operator.attrgetter("doubt")

PriceBody = Callable[[Graph], list[Price]]
"""Prices every node of a body."""


def control_price(graph: Graph, i: int, weights: frozenset[str], price_body: PriceBody) -> Price:
    """What control-flow node ``i`` takes in one step.

    Args:
        graph: Bound to the workload, with marks.
        i: A node with bodies.
        weights: Values of the graph that are weights.
        price_body: Prices a body's nodes, nested control flow included.
    """
    node, mark = graph.nodes[i], graph.marks[i] if graph.marks else None
    seen = (_routed(_seeing(body.graph, weights), mark) for body in graph.bodies[i])
    bodies = [_total(price_body(body), mark) for body in seen]
    if node.op == "If":
        return max(bodies, key=lambda p: _weight_at(p.cost, TYPICAL))
    trips = _trips(graph, i)
    if trips is None:
        told = f"The trips of {node.kind} are data and counted as one"
        return dataclasses.replace(bodies[0], doubt=bodies[0].doubt or told)
    return dataclasses.replace(bodies[0], cost=_repeated(bodies[0].cost, trips))


@kept("nodes", "weights", "bodies")
def projecting(graph: Graph, ops: Ops) -> frozenset[int]:
    """Control-flow nodes whose bodies multiply activations by weights."""
    if not graph.bodies:
        return frozenset()
    outer = weightlike(graph, ops)
    seen = {i: [_seeing(body.graph, outer) for body in bodies] for i, bodies in graph.bodies.items()}
    return frozenset(i for i, bodies in seen.items() if any(_projects(body, ops) for body in bodies))


def _projects(body: Graph, ops: Ops) -> bool:
    weights, constant = weightlike(body, ops), constant_nodes(body)
    for i, node in enumerate(body.nodes):
        product = node.kind in ops.projection and not weights.isdisjoint(node.inputs)
        if not constant[i] and (product or node.kind in ops.experts):
            return True
    return bool(projecting(body, ops))


def _seeing(body: Graph, outer: frozenset[str]) -> Graph:
    """The body with what it captures of the outer graph's weights as weights of its own."""
    found = dict(body.weights)
    for name in body.inputs:
        value = body.values.get(name)
        if name in outer and value is not None and value.dtype is not None and value.shape is not None:
            extents = tuple(d for d in value.shape if isinstance(d, int))
            if len(extents) == len(value.shape):
                found[name] = Weight(name, value.dtype, extents)
    return body if len(found) == len(body.weights) else dataclasses.replace(body, weights=found)


def _routed(body: Graph, mark: Mark | None) -> Graph:
    """The body with its mark on each node, over the tokens that the routing gives one expert."""
    if mark is None or mark.routing is None:
        return body
    tokens = Expr.of(BATCH) * Expr.of(NEW)
    each = tokens * Expr.of(mark.routing.chosen / mark.routing.experts)
    values = dict(_over_tokens(body.values, each))
    some = any(values[name] is not body.values[name] for name in values)
    own = dataclasses.replace(mark, all_tokens=not some)
    inner = {
        i: tuple(dataclasses.replace(b, graph=_routed(b.graph, mark)) for b in bodies)
        for i, bodies in body.bodies.items()
    }
    return dataclasses.replace(
        body, values=values, marks=(own,) * len(body.nodes), bodies=MappingProxyType(inner)
    )


def _over_tokens(values: Mapping[str, Value], each: Expr) -> Iterator[tuple[str, Value]]:
    """Values with each extent that is data as the tokens of one expert."""
    for name, value in values.items():
        shape = value.shape
        if shape is not None and any(_is_data(dim) for dim in shape):
            expected = tuple(str(each) if _is_data(dim) else dim for dim in shape)
            yield name, dataclasses.replace(value, shape=expected)
        else:
            yield name, value


def _is_data(dim: int | str) -> bool:
    return isinstance(dim, str) and not parse_dim(dim).symbols <= set(WORKLOAD_SYMBOLS)


def _total(prices: list[Price], mark: Mark | None) -> Price:
    """The sum over a body; in a mixture of experts all its weights are experts'."""
    costs = [p.cost for p in prices]
    plain, experts = (_merged(c.weight_elements for c in costs), _merged(c.expert_elements for c in costs))
    routing = mark.routing if mark is not None else None
    if routing is not None:
        plain, experts = {}, _merged([plain, experts])
    kinds = [c.kind for c in sorted(costs, key=lambda c: -float(c.flops.evaluate(TYPICAL)))]
    cost = Cost(
        kind=kinds[0] if kinds else "elementwise",
        flops=Expr.total([c.flops for c in costs]),
        weight_elements=plain,
        expert_elements=experts,
        routing=routing if experts else None,
        activation_in=Expr.total([c.activation_in for c in costs]),
        activation_out=Expr.total([c.activation_out for c in costs]),
        state_read=Expr.total([c.state_read for c in costs]),
        state_write=Expr.total([c.state_write for c in costs]),
    )
    first = (next((t for p in prices if (t := told(p))), "") for told in (_COMPLAINT, _DOUBT))
    return Price(cost, *first)


def _merged(parts: Iterator[Mapping[int, int]] | list[Mapping[int, int]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for part in parts:
        for bits, elements in part.items():
            found[bits] = found.get(bits, 0) + elements
    return found


def _repeated(cost: Cost, trips: Expr) -> Cost:
    return dataclasses.replace(
        cost,
        flops=cost.flops * trips,
        activation_in=cost.activation_in * trips,
        activation_out=cost.activation_out * trips,
    )


def _trips(graph: Graph, i: int) -> Expr | None:
    """How often a Loop or Scan runs its body; None if only data tells."""
    node = graph.nodes[i]
    if node.op == "Scan":
        return _scanned(graph, i)
    known = contents(graph).get(node.inputs[0]) if node.inputs[0] else None
    return known[0] if known and known[0].symbols <= set(WORKLOAD_SYMBOLS) else None


def _scanned(graph: Graph, i: int) -> Expr | None:
    """The extent of the first scanned input along its axis."""
    node = graph.nodes[i]
    count = node.attributes.get("num_scan_inputs", 0)
    axes = node.attributes.get("scan_input_axes", (0,))
    assert isinstance(count, int)
    value = graph.values.get(node.inputs[-count]) if count else None
    shape = value.shape if value is not None else None
    axis = axes[0] if isinstance(axes, tuple) and axes else 0
    if not shape or not isinstance(axis, int) or _is_data(shape[axis]):
        return None
    return parse_dim(str(shape[axis]))


def _weight_at(cost: Cost, point: Point) -> float:
    """Flops and elements moved, for telling the dearer of two."""
    moved = cost.activation_in.evaluate(point) + cost.activation_out.evaluate(point)
    weights = sum(cost.weight_elements.values()) + sum(cost.expert_elements.values())
    return float(cost.flops.evaluate(point)) + float(moved) + weights
