"""Roles in a block that touches state: norm, QKV, core attention, output projection.

The core is everything on a path between two nodes that touch state or multiply activations, so
that it holds the cache update, the scores, the softmax and the weighted sum, and for MLA the
expansion of the latent cache, in whatever ops the exporter wrote them.
"""

from __future__ import annotations

from disaggc.ir import Role
from disaggc.passes.block import Block, Finding, Found


def attention_roles(block: Block) -> Found:
    """The role of every node of an attention block, with evidence."""
    core = block.downstream(block.cores) & block.upstream(block.cores)
    into = block.upstream(core) - core
    out = block.downstream(core) - core
    projected = block.downstream(block.projections - core)
    found: Found = {}
    for i in block.nodes:
        if i in core:
            found[i] = Finding(Role.CORE_ATTENTION, _core_evidence(block, i))
        elif i in out:
            found[i] = Finding(Role.OUT_PROJECTION, "between core attention and the residual join")
        elif i in into and i in projected:
            found[i] = Finding(Role.QKV, "projects the stream for core attention")
        elif i in block.flow and i not in projected:
            found[i] = Finding(Role.NORM, "on the stream before the first projection of its block")
        elif i in block.flow:
            found[i] = Finding(Role.FFN, "stateless branch beside core attention")
    return block.with_side_nodes(found)


def _core_evidence(block: Block, i: int) -> str:
    node = block.node(i)
    touched = [s for s in block.graph.states if s.past in node.reads or s.present in node.writes]
    if touched:
        return f"touches state '{touched[0].past}'"
    if i in block.cores:
        return "multiplies activations by activations" if node.kind not in block.ops.attention else "attends"
    return "between cache and weighted sum"
