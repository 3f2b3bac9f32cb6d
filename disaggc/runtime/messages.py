"""What executors say to each other: a kind, what it is about, and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from disaggc.runtime.engine import OrtValue


class Address(NamedTuple):
    """An executor: a pool and which of its instances."""

    pool: str
    instance: int

    def __str__(self) -> str:
        return f"{self.pool}[{self.instance}]"


DRIVER = Address("", 0)
"""Whoever started the executors."""


class Kind(IntEnum):
    """What a message is for."""

    VALUES = 0
    """Activations, or states lent for a step; ``index`` says which (see ``program``)."""
    START = 1
    """From the lead: take the next step; its tokens [rows]."""
    DONE = 2
    """To the lead: this step is over here; ``index`` is the last stage."""
    STATES = 3
    """States handed over at the end of prefill, in the order of the plan's."""
    RESULT = 4
    """To the driver: tokens [rows, steps], then logits [rows, steps, vocabulary] where they are kept."""
    RELEASED = 5
    """To whoever sent tensors of a micro-batch: what lies there of it is read here no more."""


@dataclass(slots=True)
class Message:
    """Tensors from one executor to another.

    Attributes:
        kind: What it is for.
        group: The micro-batch.
        step: Which step of the group's phase, from 0.
        index: See ``Kind``.
        tensors: In the order that both sides know from the plan.
        sent_ns: When, on the machine's monotonic clock.
    """

    kind: Kind
    group: int
    step: int
    index: int
    tensors: Sequence[OrtValue]
    sent_ns: int = 0
