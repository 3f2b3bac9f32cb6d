"""What of a plan is shared out among executors, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from disaggc.plans import Plan, Sharding, SharedOps
from disaggc.records import unstructure


def sharding_lines(plan: Plan) -> Iterator[str]:
    """A line for each pool that is cut, and one for each kind of cut in it."""
    for sharding in plan.sharding:
        yield f"{sharding.pool}: {sharding.kind} over {len(sharding.shards)} executors, {_named(sharding)}"
        for ops in sharding.ops:
            yield f"  {ops.phase}: {ops.ops} x {ops.role.replace('_', ' ')}, {ops.rule}{_layers(ops)}"


def sharding_data(plan: Plan) -> dict[str, Any]:
    """The same for programs."""
    return {
        "sharding": [unstructure(sharding) for sharding in plan.sharding],
        "stages": {"prefill": len(plan.prefill.stages), "decode": len(plan.decode.stages)},
    }


def with_first_shards(plan: Plan) -> Plan:
    """The plan with the first shard of each pool for all of them: they work at the same time."""
    others = {shard for sharding in plan.sharding for shard in sharding.shards[1:]}
    stages = tuple(stage for stage in plan.decode.stages if stage.pool not in others)
    transfers = tuple(t for t in plan.decode.transfers if not others.intersection((t.source, t.target)))
    pools = tuple(pool for pool in plan.pools if pool.name not in others)
    return replace(plan, pools=pools, decode=replace(plan.decode, stages=stages, transfers=transfers))


def _named(sharding: Sharding) -> str:
    return f"{sharding.shards[0]} to {sharding.shards[-1]}"


def _layers(ops: SharedOps) -> str:
    if not ops.layers:
        return ""
    first, last = ops.layers
    return f", layer {first}" if first == last else f", layers {first} to {last}"
