"""A micro-batch as one executor sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from disaggc.runtime.engine import OrtValue
from disaggc.runtime.feeds import Feeder, Lengths
from disaggc.runtime.messages import Address, Message
from disaggc.runtime.program import Program
from disaggc.runtime.routine import TRIES, Habit, moved
from disaggc.runtime.tensors import Array, LastRows
from disaggc.runtime.wiring import Wiring


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent last time, which is what will be sent next time if no tensor became another one.

    Attributes:
        version: The executor's, by which it knows that.
    """

    address: Address
    tensors: tuple[OrtValue, ...]
    nbytes: int
    version: int


@dataclass(frozen=True, slots=True)
class Start:
    """How the lead lets others begin a step.

    Attributes:
        tensor: Where they find the tokens.
        tokens: The same to write to [rows].
        sends: What tells each of them, given the step.
    """

    tensor: OrtValue
    tokens: Array
    sends: tuple[Callable[[int], None], ...]


@dataclass(slots=True)
class Group:
    """A micro-batch as this executor sees it.

    Attributes:
        program: What is to be done in each step.
        wiring: What the names of arriving values are.
        route: Pool to instance.
        cached: Tokens of each request that were cached when the phase began, and ``grown`` since for each.
        new: Tokens of each request that a step computes.
        tokens: Ids of those, where they are known here.
        turn: The stage of the program that is next.
        is_going: Whether the step was started.
        is_in_place: Whether all states that are kept here stay where they are.
        is_queued: Whether its next stage could run as soon as it has its turn.
        rests: For each stage of the program the nanoseconds until something leaves (see ``precedence``);
            empty while nobody knows.
        left: Steps that the lead may still take.
        start: As the lead: how others are told to begin a step; None if they never were.
        told: What the lead's last word to begin a step came with: a tensor of tokens, mostly the same one.
        known: The tensors that arrived last, by index.
        routine: For each stage of the program how it is run without looking anything up, if it can be.
        unsteady: Names that mean another tensor in each step.
        before: What was here a step ago, while routine is looked for.
        tries: Steps in which it still is.
        chances: How often it may be looked for anew.
    """

    number: int
    program: Program
    wiring: Wiring
    feeder: Feeder
    route: Mapping[str, int]
    cached: Array
    new: int
    tokens: Array
    heirs: Mapping[str, int]
    keep_logits: bool
    is_ragged: bool
    left: int = 1
    grown: int = 0
    step: int = 0
    turn: int = 0
    is_going: bool = False
    is_queued: bool = False
    is_over: bool = False
    is_in_place: bool = False
    arrived: set[int] = field(default_factory=set)
    rows: LastRows = field(default_factory=LastRows)
    sent: dict[tuple[int, str], Sent] = field(default_factory=dict)
    early: list[tuple[Address, Message]] = field(default_factory=list)
    chosen: list[Array] = field(default_factory=list)
    logits: list[Array] = field(default_factory=list)
    start: Start | None = None
    told: Sequence[OrtValue] = ()
    known: dict[int, Sequence[OrtValue]] = field(default_factory=dict)
    routine: tuple[Habit | None, ...] = ()
    unsteady: frozenset[str] = frozenset()
    before: Mapping[str, OrtValue] | None = None
    tries: int = 0
    chances: int = 8
    rests: tuple[float, ...] = ()

    @property
    def lengths(self) -> Lengths:
        """How far its requests are."""
        return Lengths.of(self.cached + self.grown, self.new, is_ragged=self.is_ragged)

    def learn(self, held: Mapping[str, OrtValue]) -> bool:
        """After a step, look at what moved in it; whether there is anything to compare with."""
        before, self.before = self.before, held
        if before is None:
            return False
        self.unsteady = frozenset(moved(before, held))
        self.tries -= 1
        return True

    def unlearn(self) -> None:
        """Something moved that was not expected to: look again, some times."""
        self.routine, self.before = (), None
        self.chances -= 1
        self.tries = TRIES if self.chances > 0 else 0

    def end_step(self) -> None:
        """Get ready for the next one."""
        self.grown += self.new
        self.new = 1
        self.step += 1
        self.turn = 0
        self.is_going = False
        self.arrived.clear()
