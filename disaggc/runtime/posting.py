"""What leaves an executor for others, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from disaggc.runtime.commands import Failed
from disaggc.runtime.executor import Executor
from disaggc.runtime.group import Group, Sent
from disaggc.runtime.messages import Address, Kind, Message
from disaggc.runtime.reports import Traffic
from disaggc.runtime.tensors import nbytes
from disaggc.runtime.wiring import Hop


class Endpoint(Protocol):
    """How an executor's messages leave it."""

    def send(self, target: Address, message: Message) -> None:
        """Bring a message to another executor or the driver."""

    def tell(self, command: Failed) -> None:
        """Tell the driver something."""

    def again(self, target: Address, message: Message) -> Callable[[int], None]:
        """What sends a message that was sent, with another step; its tensors may hold something else."""

    def forget(self, group: int) -> None:
        """A micro-batch is over: nothing of it will be sent or read again."""


class Post:
    """Sends what one executor has for others, and counts it by pool."""

    def __init__(self, executor: Executor, endpoint: Endpoint) -> None:
        self._executor = executor
        self._endpoint = endpoint
        self._traffic: dict[str, Traffic] = {}

    def done(self, group: Group, index: int) -> None:
        """Tell the lead that a step is over here, and which stage was the last; that is not counted."""
        lead = group.wiring.logits
        message = Message(Kind.DONE, group.number, group.step, index, ())
        self._endpoint.send(Address(lead, group.route[lead]), message)

    def values(self, group: Group, index: int, hop: Hop) -> None:
        """Send what a stage wrote, or a state that is lent."""
        key = (index, hop.target)
        known = group.sent.get(key)
        version = self._executor.version(group.number)
        if known is None or known.version != version:
            tensors = self._executor.values(group.number, hop.names)
            address = Address(hop.target, group.route[hop.target])
            size = sum(nbytes(value) for value in tensors)
            known = group.sent[key] = Sent(address, tensors, size, version)
        message = Message(Kind.VALUES, group.number, group.step, index, known.tensors)
        self._endpoint.send(known.address, message)
        self._link(hop.target).add(len(known.tensors), known.nbytes)

    def again(self, group: Group, index: int, hop: Hop) -> Callable[[int], None]:
        """What sends the values of the last step again, given the step, and leaves counting for later."""
        sent = group.sent[index, hop.target]
        message = Message(Kind.VALUES, group.number, group.step, index, sent.tensors)
        return self._endpoint.again(sent.address, message)

    def count_repeated(self, group: Group) -> None:
        """Count the messages of stages that were run by routine."""
        for turn, habit in zip(group.program.turns, group.routine, strict=False):
            if habit is None or not habit.uncounted:
                continue
            for hop in turn.hops:
                sent = group.sent[turn.stage, hop.target]
                self._link(hop.target).add(len(sent.tensors), sent.nbytes, habit.uncounted)
            habit.uncounted = 0

    def taken(self) -> Mapping[str, Traffic]:
        """What went to each pool since this was last asked."""
        traffic, self._traffic = self._traffic, {}
        return traffic

    def _link(self, pool: str) -> Traffic:
        return self._traffic.setdefault(pool, Traffic())
