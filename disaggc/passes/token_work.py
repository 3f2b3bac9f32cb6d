"""What one decoded token takes of each part of a model, for pricing it on machines (cost/ideal.py)."""

from __future__ import annotations

from disaggc.cost import AS_STORED, Bill, Formats, format_bits
from disaggc.cost.ideal import TokenWork
from disaggc.ir import Graph, Point, Role
from disaggc.passes.latent import latent_attention
from disaggc.passes.vocabulary import load_vocabulary

LINEAR = (Role.QKV, Role.OUT_PROJECTION)
FEED_FORWARD = (Role.FFN, Role.ROUTER, Role.EXPERTS, Role.SHARED_EXPERT)


def token_work(graph: Graph, context: int, kv: str = AS_STORED) -> TokenWork:
    """The work of a token with ``context`` tokens before it; embedding, norms and head are left out.

    Latent attention counts as an engine serves it, absorbed over the latent cache, whichever cache the
    model keeps.

    Args:
        graph: After all passes.
        context: Tokens in the cache.
        kv: The cache's format.
    """
    bits = max((state.dtype.bits for state in graph.states), default=16)
    point, formats = Point(1.0, 1, context), Formats(kv=kv)

    def of(*roles: Role) -> Bill:
        costs = zip(graph.costs, graph.marks, strict=True)
        return Bill.of((cost for cost, mark in costs if mark.role in roles), bits, bits)

    core = of(Role.CORE_ATTENTION).amounts(point, formats)
    flops, read = float(core.flops), float(core.state_read_bytes)
    absorbed = latent_attention(graph, load_vocabulary(None).ops)
    if absorbed and sum(latent.layers for latent in absorbed) == len(graph.layers):
        flops = sum(one.layers * one.decode_flops(context)["absorbed"] for one in absorbed)
        elements = sum(one.layers * one.latent_elements for one in absorbed)
        read = context * elements * format_bits(kv, bits) / 8
    return TokenWork(
        core_flops=flops,
        cache_bytes=read,
        linear_flops=float(of(*LINEAR).amounts(point, formats).flops),
        ffn_flops=float(of(*FEED_FORWARD).amounts(point, formats).flops),
    )
