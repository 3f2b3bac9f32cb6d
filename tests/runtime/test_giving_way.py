"""Between two stages of one pool other micro-batches go first."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from disaggc.errors import PlanError
from disaggc.runtime.actor import Actor
from disaggc.runtime.commands import Failed, Form, Share, StagePorts
from disaggc.runtime.executor import Executor
from disaggc.runtime.messages import Address, Kind, Message
from disaggc.runtime.program import program_of
from disaggc.runtime.tensors import wrap
from disaggc.runtime.wiring import Phase

from .test_wiring import plan, ports, wired

TOKENS = ["input_ids"]
STAGES = (
    ports("input_ids", "x"),
    ports("x", "y"),
    ports("y", "left"),
    ports("y", "middle"),
    ports("y left middle", "logits"),
)
POOLS = "a b a a a"
ROUTE = {"a": 0, "b": 0}


class Noting:
    """An executor that computes nothing, and notes what it was told to run."""

    def __init__(self) -> None:
        self.ran: list[tuple[int, int]] = []
        self.broken = -1
        self.tallies: dict[tuple[Phase, int], object] = {}

    def run(self, group: int, step: int, phase: Phase, index: int) -> None:
        assert (step, phase) == (0, "decode")
        if index == self.broken:
            raise PlanError("broken")
        self.ran.append((group, index))

    def values(self, group: int, names: tuple[str, ...]) -> tuple[Any, ...]:
        assert group
        return tuple(wrap(np.zeros((1, 1, 8), np.float32)) for _ in names)

    def version(self, group: int) -> int:
        return group

    def __getattr__(self, name: str) -> Any:
        """What else it is told it does not mind."""
        return lambda *_: () if name == "groups" else None


class Deaf:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.told: list[Failed] = []

    def send(self, target: Address, message: Message) -> None:
        assert target is not None
        self.sent.append(message)

    def again(self, target: Address, message: Message) -> Callable[[int], None]:
        return lambda _: self.send(target, message)

    def tell(self, command: Failed) -> None:
        self.told.append(command)

    def forget(self, group: int) -> None:
        """Nothing is kept."""


def acting() -> tuple[Actor, Noting, Deaf]:
    """The lead, with two micro-batches whose first stage has run."""
    planned = plan(POOLS.split())
    noting, deaf = Noting(), Deaf()
    actor = Actor(Address("a", 0), _both(planned), cast(Executor, noting), deaf)
    told = [(phase, i, p) for phase in ("prefill", "decode") for i, p in enumerate(STAGES)]
    actor.connect([StagePorts(phase, i, _plain(p.inputs), _plain(p.outputs)) for phase, i, p in told])
    for group in (1, 2):
        share = Share(10 + group, (0,), (3,))
        actor.command(Form(group, (share,), (7,), 64, ROUTE, 1, keep_logits=False))
    assert noting.ran == [(1, 0), (2, 0)]
    noting.ran.clear()
    return actor, noting, deaf


def _both(planned: Any) -> Any:
    fields = {name: getattr(planned, name) for name in ("states", "feeds", "logits", "decode")}
    return SimpleNamespace(**fields, prefill=planned.decode)


def _plain(shapes: Any) -> dict[str, tuple[int | str | None, ...]]:
    return {name: tuple(shape) for name, shape in shapes.items()}


def arrives(actor: Actor, group: int) -> None:
    """What the other pool makes of a micro-batch's first stage."""
    tensors = (wrap(np.zeros((1, 1, 8), np.float32)),)
    actor.receive(Address("b", 0), Message(Kind.VALUES, group, 0, 1, tensors))


def test_a_stage_gives_way_if_the_next_one_waits_for_nothing() -> None:
    found = program_of(wired(POOLS, *STAGES), "decode", "a", TOKENS)
    assert [(turn.stage, turn.gives_way) for turn in found.turns] == [
        (0, False),
        (2, True),
        (3, True),
        (4, False),
    ]
    assert found.turns[1].needs == {1}


def test_stages_that_wait_for_another_pool_give_no_way() -> None:
    wiring = wired("a b a b", ports("input_ids", "x"), ports("x", "y"), ports("y", "z"), ports("z", "logits"))
    for pool in "ab":
        assert not any(turn.gives_way for turn in program_of(wiring, "decode", pool, TOKENS).turns)


def test_what_arrives_between_two_pieces_goes_first() -> None:
    actor, noting, _ = acting()
    arrives(actor, 1)
    assert noting.ran == [(1, 2)], "one piece, then whoever else has something to do"
    arrives(actor, 2)
    assert noting.ran == [(1, 2), (2, 2)]
    while actor.work():
        pass
    assert noting.ran == [(1, 2), (2, 2), (1, 3), (2, 3), (1, 4), (2, 4)]


def test_a_micro_batch_alone_takes_its_pieces_one_after_the_other() -> None:
    actor, noting, _ = acting()
    arrives(actor, 1)
    assert [actor.work() for _ in range(3)] == [True, True, False]
    assert noting.ran == [(1, 2), (1, 3), (1, 4)]


def test_a_message_does_not_make_a_micro_batch_jump_the_queue() -> None:
    actor, noting, _ = acting()
    arrives(actor, 1)
    arrives(actor, 1)
    assert noting.ran == [(1, 2)]
    assert [actor.work() for _ in range(3)] == [True, True, False]
    assert noting.ran == [(1, 2), (1, 3), (1, 4)], "each piece once"


def test_a_micro_batch_that_fails_between_two_pieces_leaves_the_queue() -> None:
    actor, noting, deaf = acting()
    noting.broken = 3
    arrives(actor, 1)
    arrives(actor, 2)
    while actor.work():
        pass
    assert noting.ran == [(1, 2), (2, 2)]
    assert [failed.group for failed in deaf.told] == [1, 2]
    actor.reset()
    assert not actor.work()


def test_whoever_is_given_up_between_two_pieces_runs_no_more() -> None:
    actor, noting, _ = acting()
    arrives(actor, 1)
    actor.give_up(1, PlanError("no more"))
    while actor.work():
        pass
    assert noting.ran == [(1, 2)]
