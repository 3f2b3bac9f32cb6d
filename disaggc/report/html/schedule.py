"""What a plan's stages and transfers do over time: micro-batches go round, first come, first served.

Each micro-batch goes through stages and transfers in order, as in the cost model's path; a pipeline
rank does one thing at a time, and a transfer keeps its sender and its link (conservative).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from disaggc.plans import PhasePlan, Pool, Stage, Transfer

STEPS = 4
"""Steps that are played through; the last but one is looked at, when the start has been forgotten."""

Resource = tuple[str, int]
"""A pool with one of its pipeline ranks, or a link by its name and 0."""


@dataclass(frozen=True, slots=True)
class Task:
    """Something that takes its resources for a while.

    Attributes:
        shown: The resource on whose lane it is drawn.
        taken: Every resource that it keeps busy.
        stage: The stage that it is, or after which it is sent.
    """

    shown: Resource
    taken: tuple[Resource, ...]
    time_us: float
    stage: Stage
    transfer: Transfer | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A task of one micro-batch, from start to end."""

    task: Task
    batch: int
    step: int
    start: float
    end: float


def tasks(phase: PhasePlan, pools: Sequence[Pool], layers: int) -> list[Task]:
    """The stages and transfers of a phase in order, those that take no time left out."""
    ranks = {pool.name: pool.parallelism.pp for pool in pools}
    after: Mapping[int, list[Transfer]] = defaultdict(list)
    for transfer in phase.transfers:
        after[transfer.after].append(transfer)
    found: list[Task] = []
    for stage in phase.stages:
        if stage.time_us <= 0.0:  # masks and extents: priced with the attention that reads them
            continue
        found += _ranked(stage, ranks.get(stage.pool, 1), layers)
        for transfer in after[stage.index]:
            link = (f"{transfer.source} to {transfer.target}", 0)
            found.append(Task(link, (found[-1].shown, link), transfer.time_us, stage, transfer))
    return found


def _ranked(stage: Stage, ranks: int, layers: int) -> Iterator[Task]:
    """A stage's share of each pipeline rank that holds layers of it."""
    if ranks == 1 or not stage.layers:
        last = ranks - 1 if stage.roles and stage.roles[-1] == "head" else 0
        yield Task((stage.pool, last), ((stage.pool, last),), stage.time_us, stage)
        return
    each = math.ceil(layers / ranks)
    first, last = stage.layers
    held: dict[int, int] = defaultdict(int)
    for layer in range(first, last + 1):
        held[layer // each] += 1
    for rank, count in sorted(held.items()):
        resource = (stage.pool, rank)
        yield Task(resource, (resource,), stage.time_us * count / (last - first + 1), stage)


def play(order: Sequence[Task], batches: int, steps: int = STEPS) -> list[Run]:
    """Every task of ``batches`` micro-batches over some steps, each as early as its resources allow."""
    free: dict[Resource, float] = defaultdict(float)
    ready = [0.0] * batches
    position = [0] * batches
    found: list[Run] = []
    total = len(order) * steps
    while order and min(position) < total:
        starts = []
        for batch in range(batches):
            if position[batch] < total:
                task = order[position[batch] % len(order)]
                start = max([ready[batch], *(free[r] for r in task.taken)])
                starts.append((start, -position[batch], batch))  # of equals, the one that is further on
        start, behind, batch = min(starts)
        place = -behind
        task = order[place % len(order)]
        end = start + task.time_us
        for resource in task.taken:
            free[resource] = end
        ready[batch], position[batch] = end, place + 1
        found.append(Run(task, batch, place // len(order), start, end))
    return found


def window(runs: Sequence[Run], steps: int = STEPS) -> tuple[float, float]:
    """From where micro-batch 0 begins the last step but one to where it begins the last."""
    starts = [min(r.start for r in runs if r.batch == 0 and r.step == s) for s in (steps - 2, steps - 1)]
    return starts[0], starts[1]
