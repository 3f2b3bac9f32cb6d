"""What of a plan is shared out among executors, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
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


def _named(sharding: Sharding) -> str:
    return f"{sharding.shards[0]} to {sharding.shards[-1]}"


def _layers(ops: SharedOps) -> str:
    if not ops.layers:
        return ""
    first, last = ops.layers
    return f", layer {first}" if first == last else f", layers {first} to {last}"
