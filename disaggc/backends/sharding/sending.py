"""What crosses between pools after some of them are shared out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from disaggc.backends.sharding.segments import value_of
from disaggc.placement.wiring import crossings
from disaggc.plans import PhasePlan, Stage, Transfer


def transfers(
    stages: Sequence[Stage], sizes: Mapping[str, float], planned: PhasePlan, origin: Mapping[str, str]
) -> Iterator[Transfer]:
    """One message from each stage to each other pool that reads what it writes.

    What two pools of the plan exchange has the plan's bytes and time, for each shard: shards send and receive
    at the same time. Among the shards of one pool the time is already in the stage's own (its collective).

    Args:
        stages: In order.
        sizes: Bytes of each value for one token, as stored.
        planned: The phase before.
        origin: Shards to the pool that they are shards of.
    """
    prices = {t.tensors: t for t in planned.transfers}
    crossed = {name: t for t in prices.values() for name in t.tensors}
    for stage, pool, names in crossings(stages):
        within = origin.get(stage.pool, stage.pool) == origin.get(pool, pool)
        yield _transfer(stage, pool, names, sizes, {} if within else crossed)


def _transfer(
    stage: Stage,
    pool: str,
    names: tuple[str, ...],
    sizes: Mapping[str, float],
    crossed: Mapping[str, Transfer],
) -> Transfer:
    size, time = 0.0, 0.0
    for name in names:
        before = crossed.get(value_of(name))
        if before is None:
            size += sizes[name]
        else:
            whole = sum(sizes.get(n, sizes[name]) for n in before.tensors)
            size += before.bytes_per_token * (sizes[name] / whole if whole else 1 / len(before.tensors))
            time = max(time, before.time_us)
    return Transfer(stage.index, stage.pool, pool, names, size, time)
