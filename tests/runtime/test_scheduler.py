"""Scheduling against executors that only pretend: the next token is a sum, whoever computes it."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pytest

from disaggc.errors import ExecutorError, JobError, OutOfMemoryError
from disaggc.runtime.commands import Close, Failed, Form, More, Prefill, Reported
from disaggc.runtime.lanes import make_lanes
from disaggc.runtime.messages import Address
from disaggc.runtime.requests import Live, Request
from disaggc.runtime.scheduler import Limits, Scheduler
from disaggc.runtime.transport import Event, Lost, Order, Result
from disaggc.runtime.wiring import Phase, Wiring

POOL = "only"
FOUR = Limits(4, None, ragged=True)
WIRING = Wiring((), {POOL: ()}, {}, frozenset(), (), (), POOL, frozenset())


def next_token(prefix: Sequence[int]) -> int:
    return (sum(prefix) * 31 + len(prefix)) % 997


def answer(request: Request) -> list[int]:
    prefix = list(request.prompt)
    for _ in range(request.max_new_tokens):
        prefix.append(next_token(prefix))
    return prefix[len(request.prompt) :]


class Pretending:
    """One executor that knows of each row all its tokens; some prompts do harm."""

    wirings: Mapping[Phase, Wiring] = MappingProxyType({"prefill": WIRING, "decode": WIRING})
    is_parallel = True

    def __init__(self, deadly: int = -1, poisonous: int = -1, instances: int = 1) -> None:
        self.instances = {POOL: instances}
        self.groups: dict[int, list[list[int]]] = {}
        self.work: list[tuple[int, int]] = []
        self.most_rows = self.most_tokens = self.most_at_work = self.recoveries = 0
        self.compositions: list[list[int]] = []
        self._deadly, self._poisonous = deadly, poisonous

    def order(self, address: Address, order: Order) -> None:  # noqa: ARG002 - one acts for all
        match order:
            case Prefill():
                self.groups[order.group] = [list(prompt) for prompt in order.tokens]
                self.work.append((order.group, 1))
            case Form():
                rows = [self.groups[share.group][row] for share in order.shares for row in share.rows]
                cached = [n for share in order.shares for n in share.cached]
                assert [len(row) - 1 for row in rows] == cached
                assert [row[-1] for row in rows] == list(order.tokens)
                assert order.capacity >= max(cached) + order.steps
                self.groups[order.group] = rows
                self.compositions.append(sorted(row[0] for row in rows))
                self.work.append((order.group, order.steps))
            case More():
                self.work.append((order.group, order.steps))
            case Close():
                for number in order.groups:
                    self.groups.pop(number, None)
        self.most_at_work = max(self.most_at_work, len(self.work))

    def wait(self, seconds: float) -> Sequence[Event]:
        assert seconds > 0
        assert self.work, "waits for nothing"
        group, steps = self.work.pop(0)
        heads = {row[0] for row in self.groups[group]}
        if self._poisonous in heads:
            return [Failed(group, "JobError", "It is poisonous.")]
        if self._deadly in heads:
            return [Lost((Address(POOL, 0),), "it was ended by signal 9", frozenset({group}))]
        rows = self.groups[group]
        self.most_rows = max(self.most_rows, len(rows))
        for row in rows:
            row.extend(itertools.islice(_continuation(row), steps))
        return [Result(group, np.array([row[-steps:] for row in rows]), None)]

    def recover(self) -> int:
        self.recoveries += 1
        self.groups.clear()
        self.work.clear()
        return 1

    def report(self) -> Sequence[Reported]:
        return ()

    def close(self) -> None:
        """Nothing to close."""


def _continuation(row: list[int]) -> Iterator[int]:
    prefix = list(row)
    while True:
        prefix.append(next_token(prefix))
        yield prefix[-1]


def served(
    transport: Pretending,
    requests: Sequence[Request],
    limits: Limits = FOUR,
    lanes: int = 1,
) -> list[Live]:
    lives = [Live(i, request) for i, request in enumerate(requests)]
    scheduler = Scheduler(transport, make_lanes(transport.instances, lanes), limits, itertools.count(1))
    scheduler.run(lives)
    assert transport.groups == {}, "every micro-batch was closed"
    return lives


def random_requests(seed: int, count: int = 25) -> list[Request]:
    draw = random.Random(seed)
    return [
        Request(
            tuple(draw.randrange(1, 500) for _ in range(draw.randint(1, 9))),
            draw.randint(1, 60),
            draw.choice([0.0, 0.0, 0.001, 0.003]),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_every_request_gets_its_own_tokens_whoever_it_shares_with(seed: int, ragged: bool) -> None:
    requests = random_requests(seed)
    transport = Pretending(instances=2)
    lives = served(transport, requests, Limits(3, None, ragged), lanes=2)
    assert [live.tokens for live in lives] == [answer(request) for request in requests]
    assert transport.most_at_work > 1
    assert transport.most_rows > 1 or not ragged


def test_a_lane_has_no_more_rows_than_a_micro_batch() -> None:
    requests = [Request((i, 1), 20) for i in range(1, 9)]
    transport = Pretending()
    served(transport, requests, Limits(3, None, ragged=True))
    assert transport.most_rows == 3


def test_requests_of_unequal_length_share_only_where_they_may() -> None:
    requests = [Request((1, 1), 20), Request((2, 1, 1), 20)]
    apart, together = Pretending(), Pretending()
    served(apart, requests, Limits(4, None, ragged=False))
    served(together, requests, Limits(4, None, ragged=True))
    assert all(len(rows) == 1 for rows in apart.compositions)
    assert [1, 2] in together.compositions


def test_a_request_that_comes_later_joins_those_that_decode() -> None:
    requests = [Request((1,), 4000), Request((2, 2), 4000, 0.002)]
    transport = Pretending()
    lives = served(transport, requests)
    assert [1, 2] in transport.compositions
    assert [live.tokens for live in lives] == [answer(request) for request in requests]


def test_a_request_that_is_finished_leaves_those_that_decode() -> None:
    requests = [Request((1,), 10), Request((2,), 90)]
    transport = Pretending()
    served(transport, requests)
    assert transport.compositions == [[1, 2], [2]]


def test_an_answer_ends_with_its_stop_and_the_others_go_on() -> None:
    plain = [Request((1,), 60), Request((2,), 60)]
    whole = answer(plain[0])
    stop = whole[20]
    requests = [Request((1,), 60, stop_ids=frozenset({stop})), plain[1]]
    transport = Pretending()
    lives = served(transport, requests)
    assert lives[0].tokens == whole[: whole.index(stop) + 1]
    assert lives[1].tokens == answer(plain[1])
    assert transport.compositions[-1] == [2]


def test_caches_never_hold_more_than_the_budget() -> None:
    requests = [Request((i,) * 10, 30) for i in range(1, 8)]
    transport = Pretending()
    lives = served(transport, requests, Limits(8, 100, ragged=True))
    assert transport.most_rows == 2
    assert all(live.is_done and live.error is None for live in lives)


def test_nobody_overtakes_a_request_that_waits_for_room() -> None:
    requests = [Request((1,) * 50, 40), Request((2,) * 50, 40), Request((3,), 1)]
    transport = Pretending()
    lives = served(transport, requests, Limits(8, 100, ragged=True))
    assert lives[0].last_s <= lives[1].first_s <= lives[2].first_s


def test_a_poisoned_request_is_found_among_those_it_shares_with() -> None:
    requests = [Request((i, 5), 12) for i in range(1, 5)]
    lives = served(Pretending(poisonous=3), requests)
    assert isinstance(lives[2].error, JobError)
    assert [live.tokens for live in lives if live.index != 2] == [
        answer(request) for i, request in enumerate(requests) if i != 2
    ]


def test_a_request_that_costs_executors_again_and_again_is_given_up_alone() -> None:
    requests = [Request((i, 5), 40) for i in range(1, 5)]
    transport = Pretending(deadly=3)
    lives = served(transport, requests)
    assert isinstance(lives[2].error, ExecutorError)
    assert "Request 2 was given up: 3 times in a row an executor was lost over its token 0" in str(
        lives[2].error
    )
    assert transport.recoveries == 3
    assert [live.tokens for live in lives if live.index != 2] == [
        answer(request) for i, request in enumerate(requests) if i != 2
    ]


class Narrow(Pretending):
    """Has room for so many tokens of all micro-batches together, and says so when more are to come."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._capacities: dict[int, int] = {}
        self.refused = 0

    def order(self, address: Address, order: Order) -> None:
        if isinstance(order, Prefill | Form):
            self._capacities[order.group] = len(order.tokens) * order.capacity
        if isinstance(order, Close):
            for number in order.groups:
                self._capacities.pop(number, None)
        super().order(address, order)

    def wait(self, seconds: float) -> Sequence[Event]:
        group, _ = self.work[0]
        if sum(self._capacities.values()) > self._room:
            self.work.pop(0)
            self.refused += 1
            return [Failed(group, "OutOfMemoryError", "There is no memory for it.")]
        return super().wait(seconds)


def test_who_lacks_memory_that_others_have_is_tried_when_they_are_done() -> None:
    requests = [Request((i, 5), 40) for i in range(1, 6)]
    transport = Narrow(100)
    lives = served(transport, requests, Limits(1, None, ragged=True), lanes=3)
    assert transport.refused > 0
    assert [live.tokens for live in lives] == [answer(request) for request in requests]


def test_a_request_that_fits_nowhere_is_given_up_and_says_what_it_asks_for() -> None:
    requests = [Request((1, 5), 10), Request((2, 5), 5000), Request((3, 5), 10)]
    lives = served(Narrow(100), requests, Limits(1, None, ragged=True), lanes=3)
    assert [live.tokens for live in lives] == [answer(requests[0]), [], answer(requests[2])]
    assert isinstance(lives[1].error, OutOfMemoryError)
    assert str(lives[1].error) == (
        "Request 1 of 2 tokens, with 5,000 to come, was given up. There is no memory for it."
    )


def test_a_machine_that_loses_executors_for_ever_is_at_fault() -> None:
    class Cursed(Pretending):
        def wait(self, seconds: float) -> Sequence[Event]:  # noqa: ARG002 - it never comes to that
            return [Lost((Address(POOL, 0),), "it was ended by signal 9", frozenset())]

    with pytest.raises(ExecutorError, match=r"lost 9 times in a row \(it was ended by signal 9\)"):
        served(Cursed(), [Request((1,), 3)])
