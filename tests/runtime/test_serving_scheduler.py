"""Requests that come and go while a scheduler runs: turns of tiers, withdrawal, losses, the end."""

import itertools
import threading
from collections.abc import Sequence

import pytest

from disaggc.errors import ExecutorError, JobError
from disaggc.runtime.inbox import Inbox
from disaggc.runtime.lanes import make_lanes
from disaggc.runtime.messages import Address
from disaggc.runtime.requests import Live, Request
from disaggc.runtime.scheduler import QUANTUM, Limits, Scheduler
from disaggc.runtime.transport import Event, Lost
from disaggc.runtime.waiting import Waiting

from .test_scheduler import POOL, Pretending, answer

LIMITS = Limits(4, None, ragged=True, quantum_s=1e-9)
"""A word after each step."""


class Scripted(Pretending):
    """Lets something happen at a round of its own, on the scheduler's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = 0
        self.script: dict[int, list[object]] = {}
        self.steps: list[int] = []

    def wait(self, seconds: float) -> Sequence[Event]:
        self.rounds += 1
        for act in self.script.pop(self.rounds, []):
            if isinstance(act, Lost):
                return [act]
            assert callable(act)
            act()
        self.steps.append(self.work[0][1])
        return super().wait(seconds)


def serving(
    transport: Pretending, limits: Limits = LIMITS, waiting: Waiting | None = None
) -> tuple[Scheduler, Inbox]:
    lanes = make_lanes(transport.instances, 1)
    return Scheduler(transport, lanes, limits, itertools.count(1), waiting=waiting), Inbox()


def lives_of(requests: Sequence[Request]) -> list[Live]:
    return [Live(i, request) for i, request in enumerate(requests)]


def test_requests_that_come_while_others_run_get_their_own_tokens() -> None:
    transport = Scripted()
    scheduler, inbox = serving(transport)
    lives = lives_of([Request((i, 5), 20) for i in range(1, 7)])
    inbox.put(lives[0])
    for number, live in enumerate(lives[1:], 2):
        transport.script[number * 3] = [lambda live=live: inbox.put(live)]
    transport.script[20] = [inbox.close]
    scheduler.serve(inbox)
    assert [live.tokens for live in lives] == [answer(live.request) for live in lives]
    assert transport.groups == {}, "every micro-batch was closed"
    assert scheduler.worked == [], "what was done is not kept"


def test_an_idle_scheduler_sleeps_until_something_comes() -> None:
    transport = Scripted()
    scheduler, inbox = serving(transport)
    thread = threading.Thread(target=scheduler.serve, args=(inbox,))
    thread.start()
    over = threading.Event()
    live = Live(0, Request((5,), 3), listener=lambda live: over.set() if live.is_done else None)
    inbox.put(live)
    assert over.wait(30)
    rounds = transport.rounds
    inbox.close()
    thread.join(30)
    assert not thread.is_alive()
    assert transport.rounds == rounds == 3
    assert live.tokens == answer(live.request)


def test_a_withdrawn_request_leaves_and_the_others_go_on() -> None:
    transport = Scripted()
    scheduler, inbox = serving(transport)
    lives = lives_of([Request((1, 5), 500), Request((2, 5), 30)])
    told: list[int] = []
    lives[0].listener = lambda live: told.append(len(live.tokens))
    for live in lives:
        inbox.put(live)
    transport.script[8] = [lambda: inbox.withdraw(lives[0]), inbox.close]
    scheduler.serve(inbox)
    assert lives[1].tokens == answer(lives[1].request)
    assert 0 < len(lives[0].tokens) < 12
    assert lives[0].tokens == answer(lives[0].request)[: len(lives[0].tokens)]
    assert told[-1] == len(lives[0].tokens), "its sender hears that it is over"
    assert transport.groups == {}


def test_a_request_that_is_withdrawn_before_its_turn_never_begins() -> None:
    transport = Scripted()
    scheduler, inbox = serving(transport, Limits(1, None, ragged=True))
    lives = lives_of([Request((1,), 40), Request((2,), 40), Request((3,), 4)])
    for live in lives:
        inbox.put(live)
    transport.script[2] = [lambda: inbox.withdraw(lives[1]), inbox.close]
    scheduler.serve(inbox)
    assert lives[1].tokens == []
    assert not lives[1].is_running
    assert lives[2].tokens == answer(lives[2].request)


def test_a_loss_repeats_no_token_to_a_listener() -> None:
    transport = Scripted()
    scheduler, inbox = serving(transport)
    heard: list[int] = []
    live = Live(0, Request((7, 7), 30), listener=lambda live: heard.extend(live.tokens[len(heard) :]))
    inbox.put(live)
    lost = Lost((Address(POOL, 0),), "it was ended by signal 9", frozenset())
    transport.script |= {5: [lost], 6: [lost], 20: [lost, inbox.close], 21: [inbox.close]}
    scheduler.serve(inbox)
    assert heard == live.tokens == answer(live.request)
    assert scheduler.restarts == 3


def test_executors_that_keep_being_lost_end_the_scheduler() -> None:
    class Cursed(Pretending):
        def wait(self, seconds: float) -> Sequence[Event]:  # noqa: ARG002 - it never comes to that
            return [Lost((Address(POOL, 0),), "it was ended by signal 9", frozenset())]

    scheduler, inbox = serving(Cursed())
    inbox.put(Live(0, Request((1,), 3)))
    with pytest.raises(ExecutorError, match="lost 9 times in a row"):
        scheduler.serve(inbox)


def test_a_poisoned_request_hears_of_its_error_alone() -> None:
    transport = Pretending(poisonous=2)
    scheduler, inbox = serving(transport)
    lives = lives_of([Request((i, 5), 12) for i in range(1, 4)])
    ends: list[tuple[int, type[Exception] | None]] = []

    def hear(live: Live) -> None:
        if live.is_done:
            ends.append((live.index, type(live.error) if live.error else None))

    for live in lives:
        live.listener = hear
        inbox.put(live)
    inbox.close()
    scheduler.serve(inbox)
    assert sorted(ends, key=lambda end: end[0]) == [(0, None), (1, JobError), (2, None)]


def test_nobody_is_blamed_for_one_who_left_the_micro_batch_that_failed() -> None:
    transport = Scripted()
    scheduler, inbox = serving(transport)
    lives = lives_of([Request((1, 5), 30), Request((2, 5), 30)])
    for live in lives:
        inbox.put(live)

    def poison() -> None:
        transport._poisonous = 2
        lives[1].withdraw()

    transport.script[4] = [poison, inbox.close]
    scheduler.serve(inbox)
    assert lives[0].error is None
    assert lives[0].tokens == answer(lives[0].request)


def test_a_scheduler_keeps_to_the_weights() -> None:
    scheduler, inbox = serving(
        Scripted(), Limits(1, None, ragged=True), waiting=Waiting({"premium": 3.0, "free": 1.0})
    )
    order: list[str] = []
    for number in range(16):
        tier = "free" if number < 4 else "premium"
        request = Request((1 + number,), 2, tier=tier)
        inbox.put(Live(number, request, listener=lambda live: order.append(live.request.tier)))
    inbox.close()
    scheduler.serve(inbox)
    assert order[::2].count("free") == 4
    assert 1 <= order[: len(order) // 2 : 2].count("free") <= 3


def test_a_run_of_steps_is_as_long_as_may_be_waited() -> None:
    for quantum_s, steps in ((1e-9, {1}), (1e9, {1, QUANTUM, 8})):
        transport = Scripted()
        scheduler, inbox = serving(transport, Limits(1, None, ragged=True, quantum_s=quantum_s))
        inbox.put(Live(0, Request((1,), 1 + 1 + 2 * QUANTUM + 8)))
        inbox.close()
        scheduler.serve(inbox)
        assert set(transport.steps) == steps


# whose turn it is ---------------------------------------------------------------------------------


def order_of(waiting: Waiting) -> list[int]:
    found = []
    while waiting:
        head = waiting.head()
        assert head is waiting.pop()
        found.append(head.index)
    return found


def of_tier(tier: str, numbers: Sequence[int], tokens: int = 10) -> list[Live]:
    return [Live(number, Request((1,), tokens - 1, tier=tier)) for number in numbers]


def test_one_tier_goes_in_order_of_arrival() -> None:
    waiting = Waiting()
    waiting.add(of_tier("", range(5)))
    assert order_of(waiting) == [0, 1, 2, 3, 4]


def test_tiers_take_turns_by_weight() -> None:
    waiting = Waiting({"premium": 3.0, "free": 1.0})
    waiting.add(of_tier("free", range(100, 104)))
    waiting.add(of_tier("premium", range(12)))
    order = order_of(waiting)
    assert [n for n in order if n < 100] == [*range(12)]
    for count in (4, 8, 12, 16):
        free = sum(n >= 100 for n in order[:count])
        assert abs(free - count / 4) <= 1


def test_weights_are_of_tokens_not_of_requests() -> None:
    waiting = Waiting()
    waiting.add(of_tier("long", range(100, 110), tokens=100))
    waiting.add(of_tier("short", range(100), tokens=10))
    first = order_of(waiting)[:55]
    assert 4 <= sum(n >= 100 for n in first) <= 6


def test_a_tier_that_was_idle_saves_up_nothing() -> None:
    waiting = Waiting()
    waiting.add(of_tier("busy", range(20)))
    for _ in range(10):
        waiting.pop()
    waiting.add(of_tier("idle", range(100, 120)))
    order = order_of(waiting)
    assert abs(sum(n >= 100 for n in order[:10]) - 5) <= 1


def test_those_that_were_thrown_back_come_first_and_the_unwanted_not_at_all() -> None:
    waiting = Waiting()
    lives = of_tier("", range(4))
    waiting.add(lives[2:])
    waiting.put_back([lives[1], lives[0]])
    lives[1].withdraw()
    lives[2].withdraw()
    waiting.drop_done()
    assert order_of(waiting) == [0, 3]
    assert waiting.head() is None
