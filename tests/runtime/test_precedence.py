"""Of several micro-batches the one goes first that would hand something over first."""

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
from disaggc.runtime.precedence import Waiting, rests
from disaggc.runtime.tensors import wrap
from disaggc.runtime.wiring import Phase

from .test_wiring import plan, ports

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
        self.takes: dict[int, float] = {}
        self.tallies: dict[tuple[Phase, int], object] = {}

    def run(self, group: int, step: int, phase: Phase, index: int) -> None:
        assert (step, phase) == (0, "decode")
        if index == self.broken:
            raise PlanError("broken")
        self.ran.append((group, index))

    def took_ns(self, phase: Phase, index: int) -> float:
        assert phase == "decode"
        return self.takes.get(index, 0.0)

    def values(self, group: int, names: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(self.value(group, name) for name in names)

    def value(self, group: int, name: str) -> Any:
        assert group
        assert name
        return wrap(np.zeros((1, 1, 8), np.float32))

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
    while actor.work():
        pass
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


def worked(actor: Actor) -> None:
    while actor.work():
        pass


def slow(actor: Actor, group: int, ns: float) -> None:
    """Let each stage of a micro-batch take so long; the last three are on the pool, and send nothing."""
    actor._groups[group].rests = (ns, 3 * ns, 2 * ns, ns)


def test_the_rest_of_a_stage_is_what_passes_until_something_leaves() -> None:
    assert rests([(3, True), (5, False), (7, True), (2, False), (4, False)]) == (3, 12, 7, 6, 4)
    assert rests([]) == ()


def test_who_is_due_first_goes_first_and_of_equals_who_came_first() -> None:
    waiting: Waiting[str] = Waiting()
    for name, since, rest in (("long", 0, 9), ("short", 2, 1), ("same", 1, 2), ("late", 10, 0)):
        waiting.add(name, since, rest)
    assert [waiting.first() for _ in range(len(waiting))] == ["short", "same", "long", "late"]


def test_nobody_starves() -> None:
    """However many short ones come, the long one is due in the end."""
    waiting: Waiting[str] = Waiting()
    waiting.add("long", 0, 100)
    served = []
    for now in range(0, 200, 2):
        waiting.add("short", now, 2)
        served.append(waiting.first())
    assert served.index("long") == 49, "due at 100, as who comes at 98, and before that one here"


def test_nothing_runs_before_its_turn() -> None:
    actor, noting, _ = acting()
    arrives(actor, 1)
    assert noting.ran == [], "others may have arrived, too"
    assert actor.work()
    assert noting.ran == [(1, 2)], "one piece, then whoever else has something to do"
    arrives(actor, 2)
    worked(actor)
    assert noting.ran == [(1, 2), (1, 3), (2, 2), (1, 4), (2, 3), (2, 4)], "as they could, without times"


def test_what_would_leave_first_goes_first() -> None:
    actor, noting, _ = acting()
    slow(actor, 1, 1e12)
    slow(actor, 2, 1e9)
    arrives(actor, 1)
    arrives(actor, 2)
    worked(actor)
    assert noting.ran == [(2, 2), (2, 3), (2, 4), (1, 2), (1, 3), (1, 4)]


def test_a_long_stage_is_interrupted_between_its_pieces() -> None:
    actor, noting, _ = acting()
    slow(actor, 1, 1e12)
    slow(actor, 2, 1e9)
    arrives(actor, 1)
    assert actor.work()
    arrives(actor, 2)
    worked(actor)
    assert noting.ran == [(1, 2), (2, 2), (2, 3), (2, 4), (1, 3), (1, 4)]


def test_what_stages_took_is_learnt_from_the_first_steps() -> None:
    actor, noting, _ = acting()
    noting.takes = {0: 1.0, 2: 10.0, 3: 20.0, 4: 30.0}
    arrives(actor, 1)
    worked(actor)
    assert actor._groups[1].rests == (1.0, 60.0, 50.0, 30.0), "stage 0 sends, the others end the step"


def test_a_micro_batch_alone_takes_its_stages_one_after_the_other() -> None:
    actor, noting, _ = acting()
    arrives(actor, 1)
    assert [actor.work() for _ in range(4)] == [True, True, True, False]
    assert noting.ran == [(1, 2), (1, 3), (1, 4)]


def test_a_message_does_not_make_a_micro_batch_queue_twice() -> None:
    actor, noting, _ = acting()
    arrives(actor, 1)
    arrives(actor, 1)
    assert [actor.work() for _ in range(4)] == [True, True, True, False]
    assert noting.ran == [(1, 2), (1, 3), (1, 4)], "each piece once"


def test_a_micro_batch_that_fails_between_two_pieces_leaves_the_queue() -> None:
    actor, noting, deaf = acting()
    noting.broken = 3
    arrives(actor, 1)
    arrives(actor, 2)
    worked(actor)
    assert noting.ran == [(1, 2), (2, 2)]
    assert [failed.group for failed in deaf.told] == [1, 2]
    actor.reset()
    assert not actor.work()


def test_whoever_is_given_up_between_two_pieces_runs_no_more() -> None:
    actor, noting, _ = acting()
    arrives(actor, 1)
    actor.work()
    actor.give_up(1, PlanError("no more"))
    worked(actor)
    assert noting.ran == [(1, 2)]
