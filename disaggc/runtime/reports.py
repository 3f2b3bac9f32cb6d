"""What an executor did, counted where it is done and reported to the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from disaggc.runtime.commands import Carried, LinkTally, Ran, Reported, StageTally
from disaggc.runtime.executor import Executor
from disaggc.runtime.messages import Address


@dataclass(slots=True)
class Traffic:
    """What has gone over one way between two pools."""

    messages: int = 0
    tensors: int = 0
    nbytes: int = 0

    def add(self, tensors: int, nbytes: int, messages: int = 1) -> None:
        """Count messages that are alike."""
        self.messages += messages
        self.tensors += tensors * messages
        self.nbytes += nbytes * messages


def report_of(
    address: Address,
    executor: Executor,
    threads: int,
    traffic: Mapping[str, Traffic],
    carried: Sequence[Carried],
) -> Reported:
    """What an executor did since it was last asked; it begins to count anew.

    Args:
        address: Who it is.
        executor: It.
        threads: What it computes with.
        traffic: What it sent, by pool.
        carried: What arrived there when, if that is noted.
    """
    stages = tuple(StageTally(*key, t.calls, t.nanoseconds) for key, t in executor.tallies.items())
    links = tuple(LinkTally(pool, t.messages, t.tensors, t.nbytes) for pool, t in traffic.items())
    ran = tuple(Ran(s.phase, s.index, s.group, s.step, s.start_ns, s.end_ns) for s in executor.spans)
    executor.recount()
    return Reported(*address, stages, links, threads, ran, tuple(carried))
