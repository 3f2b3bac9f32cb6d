"""Micro-batches in flight: each lane is one place in the ping-pong, on one instance of each pool.

A lane decodes one micro-batch at a time. Its requests are one micro-batch where the model's graph
takes a length for each row; where it does not, requests of one length are one, and a lane's
micro-batches take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from disaggc.runtime.requests import Live
from disaggc.runtime.wiring import Phase


@dataclass(slots=True, eq=False)
class Batch:
    """A micro-batch that executors know by its number.

    Attributes:
        rows: Its requests; None for one that went on in another micro-batch.
        turn: When it last decoded; prefilled ones are the most urgent.
        after: The work whose results it goes on with, as indices into all work that was done.
    """

    number: int
    phase: Phase
    rows: list[Live | None]
    turn: int = -1
    after: tuple[int, ...] = ()

    def live(self) -> Iterator[tuple[int, Live]]:
        """Its requests that are to go on, with their rows."""
        for row, live in enumerate(self.rows):
            if live is not None and not live.is_done:
                yield row, live


@dataclass(frozen=True, slots=True)
class Member:
    """A request, and where its state is."""

    batch: Batch
    row: int
    live: Live


@dataclass(slots=True, eq=False)
class Lane:
    """One place in the ping-pong.

    Attributes:
        route: Pool to the instance that serves this lane.
        batches: Micro-batches whose states are there, none of them at work.
        prefilling: Micro-batches in prefill.
        decoding: The one that decodes.
    """

    route: Mapping[str, int]
    batches: list[Batch] = field(default_factory=list)
    prefilling: list[Batch] = field(default_factory=list)
    decoding: Batch | None = None

    @property
    def all(self) -> list[Batch]:
        """Every micro-batch of the lane."""
        return [*self.batches, *self.prefilling, *([self.decoding] if self.decoding else [])]

    @property
    def rows(self) -> int:
        """Requests on their way here."""
        return sum(1 for batch in self.all for _ in batch.live())

    def next_members(self, ragged: bool) -> list[Member]:
        """The requests that decode next: those that waited longest, and all that may join them."""
        groups: dict[tuple[int, int], list[Member]] = {}
        for batch in sorted(self.batches, key=lambda b: (b.turn, b.number)):
            for row, live in batch.live():
                key = (live.index, -1) if live.alone else (-1, 0 if ragged else live.cached)
                groups.setdefault(key, []).append(Member(batch, row, live))
        return next(iter(groups.values()), [])

    def is_whole(self, members: Sequence[Member]) -> bool:
        """Whether they are one micro-batch as it is."""
        batch = members[0].batch
        in_place = all(m.batch is batch and m.row == row for row, m in enumerate(members))
        return batch.phase == "decode" and len(members) == len(batch.rows) and in_place

    def drop_finished(self) -> list[Batch]:
        """Take out the micro-batches that nobody needs any more."""
        over = [batch for batch in self.batches if not any(batch.live())]
        self.batches = [batch for batch in self.batches if any(batch.live())]
        return over


def make_lanes(instances: Mapping[str, int], micro_batches: int) -> list[Lane]:
    """As many lanes as keep every instance of every pool at work, each pool's taken in turn.

    Args:
        instances: Executors of each pool.
        micro_batches: Micro-batches in flight for each instance of the largest pool.
    """
    count = micro_batches * max(instances.values())
    return [Lane({pool: lane % n for pool, n in instances.items()}) for lane in range(count)]
