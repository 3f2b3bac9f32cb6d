"""What the target machines would do by the plan's own prediction, for the work that was done here.

Micro-batches take the steps that they took here, in the order that they depended on each other. A
stage takes its pool for its predicted time, a transfer its link; who is ready first goes first. As
in the plan's conservative figure, the next stage waits for the transfers of the one before. Shards of one
pool work, and are sent to and send, at the same time.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from disaggc.plans import Plan, Stage, Transfer
from disaggc.runtime.scheduler import Worked
from disaggc.runtime.wiring import Phase, phase_of


@dataclass(frozen=True, slots=True)
class Predicted:
    """A resource of the target machines is busy.

    Attributes:
        resource: A pool, or 'source -> target'.
        what: The stage or the transfer.
        work: Index into the work that was done here.
        step: Step of that work.
        start_us, end_us: On the virtual clock.
    """

    resource: str
    what: Stage | Transfer
    work: int
    step: int
    start_us: float
    end_us: float


Together = tuple[Stage | Transfer, ...]
"""What begins at the same time."""


@dataclass(slots=True)
class _Progress:
    """Work that is on its way through the stages."""

    work: int
    waits_for: int
    ops: Iterator[tuple[int, Together]]
    followers: list[_Progress] = field(default_factory=list)
    ready_us: float = 0.0


def simulate(plan: Plan, worked: Sequence[Worked]) -> list[Predicted]:
    """What would be busy when, in order of start.

    Args:
        plan: The plan, with the times of its stages and transfers for one micro-batch.
        worked: What micro-batches did here, each after those that it names.
    """
    all_progress = [_Progress(i, len(w.after), _ops(plan, w)) for i, w in enumerate(worked)]
    for progress, work in zip(all_progress, worked, strict=True):
        for before in work.after:
            all_progress[before].followers.append(progress)
    count = itertools.count()
    heap = [(0.0, next(count), progress) for progress in all_progress if not progress.waits_for]
    free: dict[str, float] = {}
    found = []
    while heap:
        ready, _, progress = heapq.heappop(heap)
        following = next(progress.ops, None)
        if following is None:
            for follower in _released(progress, ready):
                heapq.heappush(heap, (follower.ready_us, next(count), follower))
            continue
        step, together = following
        entries = [_occupy(free, progress.work, step, what, ready) for what in together]
        found += entries
        heapq.heappush(heap, (max(entry.end_us for entry in entries), next(count), progress))
    return sorted(found, key=lambda entry: (entry.start_us, entry.work))


def busy_share(entries: Sequence[Predicted]) -> Mapping[str, float]:
    """Of each resource, the share of the whole time that it is busy."""
    end = max((entry.end_us for entry in entries), default=0.0)
    shares: dict[str, float] = {}
    for entry in entries:
        shares[entry.resource] = shares.get(entry.resource, 0.0) + entry.end_us - entry.start_us
    return {name: time / end if end else 0.0 for name, time in sorted(shares.items())}


def _ops(plan: Plan, work: Worked) -> Iterator[tuple[int, Together]]:
    order = tuple(_in_order(plan, work.phase))
    for step in range(work.steps):
        for together in order:
            yield step, together


def _in_order(plan: Plan, phase: Phase) -> Iterator[Together]:
    """Stages with the transfers after them; those of shards together."""
    whole = {shard: sharding.pool for sharding in plan.sharding for shard in sharding.shards}
    found = phase_of(plan, phase)
    for stages in _shards_together(found.stages, whole):
        yield stages
        indices = {stage.index for stage in stages}
        routes: dict[tuple[str, str], list[Transfer]] = {}
        for transfer in found.transfers:
            if transfer.after in indices:
                route = (
                    whole.get(transfer.source, transfer.source),
                    whole.get(transfer.target, transfer.target),
                )
                routes.setdefault(route, []).append(transfer)
        yield from (tuple(transfers) for transfers in routes.values())


def _shards_together(stages: Sequence[Stage], whole: Mapping[str, str]) -> Iterator[tuple[Stage, ...]]:
    """Runs of stages on different shards of one pool; every other stage by itself."""
    run: list[Stage] = []
    for stage in stages:
        pool = whole.get(stage.pool)
        others = [other.pool for other in run]
        if run and (pool is None or stage.pool in others or whole.get(others[0]) != pool):
            yield tuple(run)
            run = []
        run.append(stage)
    if run:
        yield tuple(run)


def _occupy(
    free: dict[str, float], work: int, step: int, what: Stage | Transfer, ready_us: float
) -> Predicted:
    resource = what.pool if isinstance(what, Stage) else f"{what.source} -> {what.target}"
    start = max(ready_us, free.get(resource, 0.0))
    free[resource] = start + what.time_us
    return Predicted(resource, what, work, step, start, free[resource])


def _released(progress: _Progress, now_us: float) -> Iterator[_Progress]:
    """The work that waited for this alone."""
    for follower in progress.followers:
        follower.waits_for -= 1
        follower.ready_us = max(follower.ready_us, now_us)
        if not follower.waits_for:
            yield follower
