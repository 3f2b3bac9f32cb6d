"""Executors that act on messages, whatever the order in which these arrive from unlike senders."""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from disaggc.plans import Plan
from disaggc.runtime import Deployment, Execution, deploy_reference
from disaggc.runtime.actor import Actor
from disaggc.runtime.commands import Failed, Reported
from disaggc.runtime.executor import Executor
from disaggc.runtime.messages import DRIVER, Address, Message
from disaggc.runtime.ports import wirings
from disaggc.runtime.sessions import StageOpener
from disaggc.runtime.tensors import as_type, view
from disaggc.runtime.transport import Event, Order, result_of

from .splitting import contiguous, read, split
from .test_processes import TINY

PROMPTS = [[5, 7, 11, 13, 2], [1, 2, 3], [9, 8, 7, 6, 5], [4, 4]]


class Shuffled:
    """Actors in one process; who is next, and which sender is heard, is drawn."""

    is_parallel = True

    def __init__(self, plan: Plan, folder: Path, instances: dict[str, int], seed: int) -> None:
        self.instances = instances
        self._draw = random.Random(seed)
        self._posts: dict[tuple[Address, Address], deque[Message]] = defaultdict(deque)
        self._orders: dict[Address, deque[Order]] = defaultdict(deque)
        self._events: list[Event] = []
        opener = StageOpener(folder, TINY.parent, 1)
        self._actors: dict[Address, Actor] = {}
        for address in [Address(pool, i) for pool, count in instances.items() for i in range(count)]:
            endpoint = Mailbox(address, self._posts, self._events)
            self._actors[address] = Actor(address, plan, Executor(address.pool, plan, opener), endpoint)
        stages = [ports for actor in self._actors.values() for ports in actor.ports()]
        self.wirings = wirings(plan, stages)
        for actor in self._actors.values():
            actor.connect(stages)

    def order(self, address: Address, order: Order) -> None:
        self._orders[address].append(order)

    def wait(self, seconds: float) -> Sequence[Event]:
        assert seconds > 0
        while not self._events:
            actors = [a.work for a in self._actors.values() if self._draw.random() < 0.5]
            orders = [self._obey(address) for address, queue in self._orders.items() if queue]
            posts = [self._deliver(link) for link, queue in self._posts.items() if queue]
            choices = [*actors, *orders, *posts]
            if choices:
                self._draw.choice(choices)()
        events = [*self._events]
        self._events.clear()
        return events

    def recover(self) -> int:
        raise AssertionError("nobody is lost here")

    def report(self) -> Sequence[Reported]:
        return [actor.report(1) for actor in self._actors.values()]

    def close(self) -> None:
        """Nothing to close."""

    def _obey(self, address: Address):  # type: ignore[no-untyped-def]
        return lambda: self._actors[address].command(self._orders[address].popleft())

    def _deliver(self, link: tuple[Address, Address]):  # type: ignore[no-untyped-def]
        return lambda: self._actors[link[1]].receive(link[0], self._posts[link].popleft())


class Mailbox:
    """Copies what is sent, as shared memory does."""

    def __init__(
        self, own: Address, posts: dict[tuple[Address, Address], deque[Message]], events: list[Event]
    ) -> None:
        self._own, self._posts, self._events = own, posts, events

    def send(self, target: Address, message: Message) -> None:
        if target == DRIVER:
            self._events.append(result_of(message))
            return
        tensors = [as_type(view(value).copy(), value.element_type()) for value in message.tensors]
        copied = Message(message.kind, message.group, message.step, message.index, tensors)
        self._posts[self._own, target].append(copied)

    def again(self, target: Address, message: Message) -> Callable[[int], None]:
        return lambda step: self.send(target, replace(message, step=step))

    def tell(self, command: Failed) -> None:
        self._events.append(command)

    def forget(self, group: int) -> None:
        """Nothing is kept."""


@pytest.mark.parametrize("prefill_pool", [None, "prefill"])
@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_arrival_changes_a_token(tmp_path: Path, seed: int, prefill_pool: str | None) -> None:
    draw = random.Random(seed)
    pools = ("attention", "experts", "head")[: draw.choice([2, 3])]
    parts = contiguous(read(TINY), draw.randint(3, 7), seed)
    plan = split(TINY, tmp_path, parts, pools=pools, prefill_pool=prefill_pool)
    instances = {pool: draw.randint(1, 2) for pool in (*pools, *([prefill_pool] if prefill_pool else []))}
    with deploy_reference(plan, TINY.parent) as reference:
        expected = reference.generate(PROMPTS, 20).tokens
    shuffled = Shuffled(plan, tmp_path, instances, seed)
    with Deployment(plan, shuffled, Execution(micro_batch=2, micro_batches=2)) as deployment:
        assert deployment.generate(PROMPTS, 20).tokens == expected
        assert deployment.is_ragged


def test_a_request_that_fails_in_a_stage_leaves_the_others_alone(tmp_path: Path) -> None:
    plan = split(TINY, tmp_path, contiguous(read(TINY), 4, 1))
    with deploy_reference(plan, TINY.parent) as reference:
        expected = reference.generate([[1, 2], [5, 6]], 20).tokens
    shuffled = Shuffled(plan, tmp_path, {"attention": 1, "experts": 1}, 0)
    with Deployment(plan, shuffled, Execution(micro_batch=2, micro_batches=2)) as deployment:
        found = deployment.generate([[1, 2], [3, 600], [5, 6]], 20)
    assert found.tokens == (expected[0], (), expected[1])
    assert "Token id 600 is not in the model's vocabulary" in str(found.failures[1])
