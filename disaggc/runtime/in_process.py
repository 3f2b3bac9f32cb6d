"""Executors in this process and on this thread: a tensor changes hands, and nothing is copied."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from time import perf_counter_ns

from disaggc.plans import Plan
from disaggc.runtime.actor import Actor, wirings
from disaggc.runtime.commands import Failed, Reported
from disaggc.runtime.executor import Executor
from disaggc.runtime.messages import DRIVER, Address, Message
from disaggc.runtime.sessions import Opener
from disaggc.runtime.tensors import view
from disaggc.runtime.threads import threads_in_effect
from disaggc.runtime.transport import Event, Order, Result
from disaggc.runtime.wiring import Phase, Wiring

Post = deque[tuple[Address, Address, Message]]


class _Mailbox:
    """How an executor's messages get into the common queue."""

    copies = False

    def __init__(self, own: Address, post: Post, events: list[Event], traced: bool) -> None:
        self._own = own
        self._post = post
        self._events = events
        self._traced = traced

    def send(self, target: Address, message: Message) -> None:
        """Put a message into the queue, or make an event of a result."""
        if target == DRIVER:
            self._events.append(result_of(message))
            return
        if self._traced:
            message.sent_ns = perf_counter_ns()
        self._post.append((target, self._own, message))

    def tell(self, command: Failed) -> None:
        """Make an event of a failure."""
        self._events.append(command)

    def forget(self, group: int) -> None:
        """Nothing is kept here."""


class InProcess:
    """A transport within one process."""

    is_parallel = False

    def __init__(
        self, plan: Plan, opener: Opener, instances: Mapping[str, int], threads: int, traced: bool = False
    ) -> None:
        """Open the executors.

        Raises:
            PlanError: A stage cannot be opened, or reads what nobody gives it.
        """
        self.instances = dict(instances)
        self._threads = threads
        self._post: Post = deque()
        self._events: list[Event] = []
        self._actors: dict[Address, Actor] = {}
        for pool, count in instances.items():
            for instance in range(count):
                address = Address(pool, instance)
                executor = Executor(pool, plan, opener, traced)
                mailbox = _Mailbox(address, self._post, self._events, traced)
                actor = self._actors[address] = Actor(address, plan, executor, mailbox)
                actor.carried = [] if traced else None
        stages = [ports for actor in self._actors.values() for ports in actor.ports()]
        self.wirings: dict[Phase, Wiring] = wirings(plan, stages)
        for actor in self._actors.values():
            actor.connect(stages)

    def order(self, address: Address, order: Order) -> None:
        """Tell an executor to do something."""
        self._actors[address].command(order)

    def wait(self, seconds: float) -> Sequence[Event]:  # noqa: ARG002 - nothing comes from elsewhere
        """Work until something has happened, or there is nothing to do."""
        while not self._events and self._turn():
            pass
        events = tuple(self._events)
        self._events.clear()
        return events

    def recover(self) -> int:
        """Forget everything."""
        self._post.clear()
        self._events.clear()
        for actor in self._actors.values():
            actor.reset()
        return 0

    def report(self) -> Sequence[Reported]:
        """What each executor did since the last report."""
        threads = threads_in_effect(self._threads)
        return tuple(actor.report(threads) for actor in self._actors.values())

    def close(self) -> None:
        """Nothing is held that the interpreter does not let go of."""

    def _turn(self) -> bool:
        if self._post:
            target, source, message = self._post.popleft()
            self._actors[target].receive(source, message)
            return True
        return any(actor.work() for actor in self._actors.values())


def result_of(message: Message) -> Result:
    """What a message to the driver says."""
    tokens, *logits = [view(value).copy() for value in message.tensors]
    return Result(message.group, tokens, logits[0] if logits else None)
