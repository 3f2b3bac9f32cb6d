"""What the target machines would do by the plan's own prediction, for the work that was done here.

Micro-batches take the steps that they took here, in the order that they depended on each other. A
stage takes its pool for its predicted time, a transfer its link; where several could go on, who would
hand something over first goes first, as in the executors (see ``precedence``). As in the plan's
conservative figure, the next stage waits for the transfers of the one before. Shards of one pool work,
and are sent to and send, at the same time.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from disaggc.plans import Plan, Stage, Transfer
from disaggc.runtime.precedence import Waiting, rests
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
    """Work that is on its way through the stages.

    Attributes:
        rests: Stage to what passes from its start until something leaves its pool.
        under_way: How many of the things that began together have not ended.
    """

    work: int
    waits_for: int
    ops: Iterator[tuple[int, Together]]
    rests: Mapping[int, float]
    followers: list[_Progress] = field(default_factory=list)
    under_way: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    """A stage or transfer that could begin as soon as its resource is free."""

    progress: _Progress
    step: int
    what: Stage | Transfer

    @property
    def resource(self) -> str:
        """A pool, or a link."""
        what = self.what
        return what.pool if isinstance(what, Stage) else f"{what.source} -> {what.target}"


def simulate(plan: Plan, worked: Sequence[Worked]) -> list[Predicted]:
    """What would be busy when, in order of start.

    Args:
        plan: The plan, with the times of its stages and transfers for one micro-batch.
        worked: What micro-batches did here, each after those that it names.
    """
    return sorted(_Clock(plan, worked).played(), key=lambda entry: (entry.start_us, entry.work))


class _Clock:
    """Resources, what waits for each, and what ends when."""

    def __init__(self, plan: Plan, worked: Sequence[Worked]) -> None:
        self._now = 0.0
        self._waiting: dict[str, Waiting[_Task]] = {}
        self._busy: set[str] = set()
        self._ends: list[tuple[float, int, _Task]] = []
        self._count = itertools.count()
        rested = {"decode": dict(_rests(plan))}  # prompts wait for their turn, and for nothing else
        self._all = [
            _Progress(i, len(w.after), _ops(plan, w), rested.get(w.phase, {})) for i, w in enumerate(worked)
        ]
        for progress, work in zip(self._all, worked, strict=True):
            for before in work.after:
                self._all[before].followers.append(progress)

    def played(self) -> Iterator[Predicted]:
        """Each thing as it begins."""
        for progress in [progress for progress in self._all if not progress.waits_for]:
            self._go_on(progress)
        yield from self._begun()
        while self._ends:
            self._now = self._ends[0][0]
            while self._ends and self._ends[0][0] == self._now:
                self._end(heapq.heappop(self._ends)[2])
            yield from self._begun()

    def _go_on(self, progress: _Progress) -> None:
        """Let work wait for what is next, or release what waits for it."""
        following = next(progress.ops, None)
        if following is None:
            for follower in progress.followers:
                follower.waits_for -= 1
                if not follower.waits_for:
                    self._go_on(follower)
            return
        step, together = following
        progress.under_way = len(together)
        for what in together:
            task = _Task(progress, step, what)
            rest = progress.rests.get(what.index, 0.0) if isinstance(what, Stage) else 0.0
            self._waiting.setdefault(task.resource, Waiting()).add(task, self._now, rest)

    def _begun(self) -> Iterator[Predicted]:
        """What begins now: on each free resource whoever is due first."""
        for resource, waiting in self._waiting.items():
            if waiting and resource not in self._busy:
                task = waiting.first()
                self._busy.add(resource)
                end = self._now + task.what.time_us
                heapq.heappush(self._ends, (end, next(self._count), task))
                yield Predicted(resource, task.what, task.progress.work, task.step, self._now, end)

    def _end(self, task: _Task) -> None:
        self._busy.discard(task.resource)
        task.progress.under_way -= 1
        if not task.progress.under_way:
            self._go_on(task.progress)


def _rests(plan: Plan) -> Iterator[tuple[int, float]]:
    """Decode stages, by index, with what passes from the start of each until something leaves its pool."""
    sending = {transfer.after for transfer in plan.decode.transfers}
    pools: dict[str, list[Stage]] = {}
    for stage in plan.decode.stages:
        pools.setdefault(stage.pool, []).append(stage)
    for stages in pools.values():
        times = rests([(stage.time_us, stage.index in sending) for stage in stages])
        yield from zip((stage.index for stage in stages), times, strict=True)


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
