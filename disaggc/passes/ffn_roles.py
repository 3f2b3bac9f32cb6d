"""Roles in a stateless block: norm, and either FFN, or router, experts and shared expert.

A mixture of experts is recognised by data flow, in every form that exporters write: one fused op;
weights looked up by the routing; or every expert computed and weighed by the routing (its branch is
*multiplied* by something that depends on the selection, where a shared expert is only added).
"""

from __future__ import annotations

from disaggc.ir import Role, Routing
from disaggc.passes.block import Block, Finding, Found, those
from disaggc.passes.flow import reach


def ffn_roles(block: Block) -> Found:
    """The role of every node of a stateless block, with evidence."""
    fused = those(block.projections, lambda i: block.node(i).kind in block.ops.experts)
    select = _last_select(block)
    if fused:
        router, routing = _fused_router(block, fused), _fused_routing(block, fused)
        return _mixture(block, router, fused, "fused mixture-of-experts op", routing)
    if select:
        return _selected(block, select)
    return _dense(block)


def _dense(block: Block) -> Found:
    projected = block.downstream(block.projections)
    found: Found = {}
    for i in block.nodes:
        if i in projected:
            found[i] = Finding(Role.FFN, "stateless branch between residual joins")
        elif i in block.flow:
            found[i] = Finding(Role.NORM, "on the stream before the first projection of its block")
    return block.with_side_nodes(found)


def _last_select(block: Block) -> set[int]:
    """The selection that no later selection refines (group-limited routing selects three times)."""
    selects = those(block.flow, lambda i: block.node(i).kind in block.ops.select)
    return {i for i in selects if not (block.downstream([i]) - {i}) & selects}


def _fused_router(block: Block, fused: set[int]) -> set[int]:
    """What computes the second input of a fused op from the stream."""
    writers = (block.writer(block.node(i).inputs[1]) for i in fused)
    scores = {i for i in writers if i is not None}
    above = block.upstream(scores)
    return above & block.downstream(block.projections & above)


def _selected(block: Block, select: set[int]) -> Found:
    """Experts that an explicit selection picks."""
    above = block.upstream(select)
    router = above & block.downstream(block.projections & above)
    below = block.downstream(select) - select
    branches = block.projections - above - below
    gates = _gates(block, below, branches)
    looked_up = those(below, lambda i: _reads_stack(block, i))
    experts = {p for p in branches if _is_gated(block, p, below, gates)} | looked_up
    experts |= block.projections & below
    if not experts:
        return _dense(block)
    experts |= _serving_one(block, below, gates)
    done = block.downstream(experts)
    router |= {i for i in below if i not in done} | select
    routing = _routing(block, min(select))
    if looked_up:
        return _mixture(block, router, experts, "weights looked up by the routing", routing)
    form = f"{len(gates)} branches, each weighed by the routing"
    return _mixture(block, router, experts, form, routing, all_tokens=True)


def _routing(block: Block, select: int) -> Routing | None:
    """Of how many scores a selection takes how many, from its extents."""
    node = block.node(select)
    scores = block.graph.values[node.inputs[0]].shape
    picked = block.graph.weights.get(node.inputs[1])
    chosen = picked.integers[0] if picked is not None and picked.integers else None
    if not scores or not isinstance(scores[-1], int) or chosen is None:
        return None
    return Routing(scores[-1], chosen)


def _fused_routing(block: Block, fused: set[int]) -> Routing | None:
    node = block.node(min(fused))
    chosen = node.attributes.get("k", 1)
    scores = block.graph.values[node.inputs[1]].shape
    if not scores or not isinstance(scores[-1], int) or not isinstance(chosen, int):
        return None
    return Routing(scores[-1], chosen)


def _reads_stack(block: Block, i: int) -> bool:
    """Whether a node looks weights up."""
    node = block.node(i)
    return node.kind in block.ops.lookup and node.outputs[0] in block.weights


def _gates(block: Block, below: set[int], branches: frozenset[int]) -> list[int]:
    """Nodes that multiply a branch, computed without the selection, by the routing."""
    computed = block.downstream(branches) - below
    return sorted(
        i for i in below if block.node(i).kind in block.ops.gate and not computed.isdisjoint(block.before[i])
    )


def _is_gated(block: Block, projection: int, below: set[int], gates: list[int]) -> bool:
    """Whether all that a branch computes meets the routing at gates, never by being added."""
    branch = reach([projection], lambda i: (j for j in block.after[i] if j not in below))
    joined = {j for i in branch for j in block.after[i] if j in below}
    return bool(joined) and joined <= set(gates)


def _serving_one(block: Block, below: set[int], gates: list[int]) -> set[int]:
    """Nodes after the selection that lead to some experts only: they dispatch to those."""
    if len(gates) < 2:
        return set()
    bit = {gate: 1 << k for k, gate in enumerate(gates)}
    everyone = (1 << len(gates)) - 1
    leads: dict[int, int] = {}
    for i in sorted(below, reverse=True):
        leads[i] = bit.get(i, 0)
        if i not in bit:
            for j in block.after[i]:
                leads[i] |= leads.get(j, 0)
    return {i for i, mask in leads.items() if mask and mask != everyone}


def _mixture(
    block: Block,
    router: set[int],
    experts: set[int],
    form: str,
    routing: Routing | None,
    all_tokens: bool = False,
) -> Found:
    """Roles around known routers and experts."""
    between = block.upstream(experts) & block.downstream(block.projections & experts)
    done = block.downstream(experts) | between
    projected = block.downstream(block.projections)
    found: Found = {}
    for i in block.nodes:
        if i in router:
            found[i] = Finding(Role.ROUTER, "scores experts and selects among them")
        elif i in done or i in experts:
            found[i] = Finding(Role.EXPERTS, form, routing, all_tokens)
        elif i in projected:
            found[i] = Finding(Role.SHARED_EXPERT, "branch beside the experts that is added, not selected")
        elif i in block.flow:
            found[i] = Finding(Role.NORM, "on the stream before the first projection of its block")
    return block.with_side_nodes(found)
