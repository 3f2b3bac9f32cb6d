"""What a driver needs of the executors, wherever they are: one interface, several ways to carry it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from disaggc.runtime.commands import Close, Failed, Form, More, Prefill, Reported
from disaggc.runtime.messages import Address, Message
from disaggc.runtime.tensors import Array, view
from disaggc.runtime.wiring import Phase, Wiring

Order: TypeAlias = Prefill | Form | More | Close


@dataclass(frozen=True, slots=True)
class Result:
    """A micro-batch took the steps it was told to.

    Attributes:
        group: The micro-batch.
        tokens: What was chosen [rows, steps].
        logits: [rows, steps, vocabulary] in float32, where they are kept.
    """

    group: int
    tokens: Array
    logits: Array | None


@dataclass(frozen=True, slots=True)
class Lost:
    """Executors died or hang; what all executors held is lost until ``recover``.

    Attributes:
        addresses: Who.
        reason: How it was noticed.
        groups: The micro-batches that they worked on at that moment.
    """

    addresses: tuple[Address, ...]
    reason: str
    groups: frozenset[int]


Event: TypeAlias = Result | Failed | Lost


def result_of(message: Message) -> Result:
    """What a message to the driver says."""
    tokens, *logits = [view(value).copy() for value in message.tensors]
    return Result(message.group, tokens, logits[0] if logits else None)


class Transport(Protocol):
    """Executors that are open, and the way to them."""

    @property
    def wirings(self) -> Mapping[Phase, Wiring]:
        """How values flow in both phases."""

    @property
    def instances(self) -> Mapping[str, int]:
        """Executors of each pool."""

    @property
    def is_parallel(self) -> bool:
        """Whether executors of unlike pools work at the same time."""

    def order(self, address: Address, order: Order) -> None:
        """Tell an executor to do something; what comes of it is an event."""

    def wait(self, seconds: float) -> Sequence[Event]:
        """What happened; waits for something as long as ``seconds``.

        Raises:
            ExecutorError: Something is wrong that no new executor would mend.
        """

    def recover(self) -> int:
        """After ``Lost``: replace the executors that are gone, and say how many; all are empty afterwards.

        Raises:
            ExecutorError: They cannot be started.
        """

    def report(self) -> Sequence[Reported]:
        """What each executor did since the last report."""

    def close(self) -> None:
        """Let all executors go."""
