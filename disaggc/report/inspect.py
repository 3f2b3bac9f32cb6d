"""What was found in a model: layers, roles with evidence, costs and arithmetic intensity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from disaggc.cost import AS_STORED, Amounts, Bill, Formats
from disaggc.ir import Graph, Point, Role
from disaggc.passes.latent import Latent, latent_attention
from disaggc.passes.vocabulary import load_vocabulary
from disaggc.report.console import amount, table

POINTS = {"prefill": Point(1, 512, 0), "decode": Point(1, 1, 511)}
"""Where costs are shown: one request, a prompt of 512 tokens, then one token with 511 in the cache."""
SEEN = 512
"""Tokens that the new one attends to there."""


@dataclass(frozen=True, slots=True)
class RoleCost:
    """One role over all layers, or the whole model (role 'total')."""

    role: str
    nodes: int
    amounts: dict[str, Amounts]
    evidence: str


def inspection(graph: Graph, verbose: bool = False) -> Iterator[RenderableType]:
    """Tables of what ``disaggc inspect`` found.

    Args:
        graph: After all passes.
        verbose: Every node with its role and evidence, too.
    """
    yield f"[bold]{escape(graph.name)}[/]: {len(graph.nodes):,} ops, {_layers(graph)}, {_parameters(graph)}"
    yield _states(graph)
    yield from (_latent_text(latent) for latent in latent_attention(graph, load_vocabulary(None).ops))
    costs = role_costs(graph)
    yield table(
        "Roles over all layers, one request: prefill of 512 tokens, decode of one with 511 cached",
        ("role", "ops", "prefill flop", "flop/B", "decode flop", "weights", "cache", "flop/B"),
        [_cost_row(cost) for cost in costs],
    )
    first = [(i, m) for i, m in enumerate(graph.marks) if m.layer in (None, 0)]
    shown = list(enumerate(graph.marks)) if verbose else _one_of_each(first)
    yield table(
        "Every op" if verbose else "Evidence, one op of each role (all: --verbose or --json)",
        ("op", "layer", "role", "evidence"),
        [(graph.nodes[i].kind, "" if m.layer is None else m.layer, m.role, m.evidence) for i, m in shown],
        left=4,
    )


def _latent_text(latent: Latent) -> str:
    """Which cache MLA keeps, and what the other ways to serve it would take."""
    flops = latent.decode_flops(SEEN)
    elements = {"latent": latent.latent_elements, "expanded": latent.expanded_elements}
    other = "expanded" if latent.keeps == "latent" else "latent"
    told = {way: amount(latent.layers * count, "F") for way, count in flops.items()}
    return (
        f"Latent attention (MLA) in {latent.layers} layers keeps the {latent.keeps} cache: "
        f"{elements[latent.keeps]:,} elements a token and layer ({other}: {elements[other]:,}). "
        f"A token over {SEEN:,} takes {told[latent.keeps]} of attention; {other} cache: {told[other]}, "
        f"projections absorbed: {told['absorbed']} from the latent cache."
    )


def inspection_data(graph: Graph) -> dict[str, Any]:
    """The same for programs, with every op."""
    return {
        "model": graph.name,
        "nodes": len(graph.nodes),
        "layers": len(graph.layers),
        "layer_classes": sorted({layer.layer_class for layer in graph.layers}),
        "parameters": sum(w.elements for w in graph.weights.values() if w.integers is None),
        "feeds": dict(graph.workload.feeds) if graph.workload else {},
        "states": [
            {"past": s.past, "present": s.present, "axis": s.axis, "in_place": s.in_place, "window": s.window}
            for s in graph.states
        ],
        "latent_attention": [
            {**dataclasses.asdict(latent), "decode_flops": latent.decode_flops(SEEN)}
            for latent in latent_attention(graph, load_vocabulary(None).ops)
        ],
        "roles": [
            {"role": c.role, "nodes": c.nodes, **{phase: _numbers(a) for phase, a in c.amounts.items()}}
            for c in role_costs(graph)
        ],
        "ops": [
            {
                "op": node.kind,
                "name": node.name,
                "layer": mark.layer,
                "role": mark.role.value,
                "evidence": mark.evidence,
                "flops": str(cost.flops),
                "weight_elements": sum(cost.weight_elements.values()),
                "expert_elements": sum(cost.expert_elements.values()),
                "activations": str(cost.activation_in + cost.activation_out),
                "state": str(cost.state_read + cost.state_write),
            }
            for node, mark, cost in zip(graph.nodes, graph.marks, graph.costs, strict=True)
        ],
        "warnings": list(graph.warnings),
    }


def role_costs(graph: Graph) -> list[RoleCost]:
    """Costs by role, in order of first appearance, and their total."""
    members: dict[Role, list[int]] = {}
    for i, mark in enumerate(graph.marks):
        members.setdefault(mark.role, []).append(i)
    bits = max((s.dtype.bits for s in graph.states), default=16)
    found = []
    for role, nodes in members.items():
        bill = Bill.of((graph.costs[i] for i in nodes), bits, bits)
        found.append(RoleCost(role.value, len(nodes), _amounts(bill), graph.marks[nodes[0]].evidence))
    total = Bill.of(graph.costs, bits, bits)
    return [*found, RoleCost("total", len(graph.nodes), _amounts(total), "")]


def _amounts(bill: Bill) -> dict[str, Amounts]:
    formats = Formats(AS_STORED, AS_STORED, AS_STORED)
    return {phase: bill.amounts(point, formats) for phase, point in POINTS.items()}


def _numbers(amounts: Amounts) -> dict[str, float]:
    return {
        "flops": float(amounts.flops),
        "weight_bytes": float(amounts.weight_bytes + amounts.expert_bytes),
        "activation_bytes": float(amounts.activation_bytes),
        "state_bytes": float(amounts.state_read_bytes + amounts.state_write_bytes),
        "flops_per_byte": float(amounts.intensity),
    }


def _cost_row(cost: RoleCost) -> tuple[object, ...]:
    prefill, decode = cost.amounts["prefill"], cost.amounts["decode"]
    return (
        cost.role,
        f"{cost.nodes:,}",
        amount(float(prefill.flops), "F"),
        f"{float(prefill.intensity):.3g}",
        amount(float(decode.flops), "F"),
        amount(float(decode.weight_bytes + decode.expert_bytes), "B"),
        amount(float(decode.state_read_bytes + decode.state_write_bytes), "B"),
        f"{float(decode.intensity):.3g}",
    )


def _one_of_each(marks: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The first op of each role and evidence."""
    return list({(m.role, m.evidence.partition("'")[0]): (i, m) for i, m in reversed(marks)}.values())[::-1]


def _layers(graph: Graph) -> str:
    if not graph.layers:
        return "no layers"
    classes = len({layer.layer_class for layer in graph.layers})
    return f"{len(graph.layers)} layers of {classes} kind{'s' if classes > 1 else ''}"


def _parameters(graph: Graph) -> str:
    return amount(sum(w.elements for w in graph.weights.values() if w.integers is None), "parameters")


def _states(graph: Graph) -> str:
    if not graph.states:
        return "No state: nothing comes back from one step to the next."
    growing = sum(s.axis is not None for s in graph.states)
    in_place = sum(s.in_place for s in graph.states)
    per_token = sum(s.heads * s.width * s.dtype.bits // 8 for s in graph.states if s.axis is not None)
    return (
        f"{len(graph.states)} states, {growing} grow by token ({amount(per_token, 'B')} a token as stored), "
        f"{in_place} updated in place"
    )
