"""Executors in this process and on this thread: a tensor changes hands, and nothing is copied.

There is nobody to wait for, so a step is a loop over the stages. What executors in processes work
out among themselves by messages (see ``actor``) is written down here in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns

import numpy as np

from disaggc.errors import DisaggcError
from disaggc.plans import Plan
from disaggc.runtime.commands import Carried, Close, Failed, Form, More, Prefill, Reported
from disaggc.runtime.engine import OrtValue
from disaggc.runtime.executor import Executor
from disaggc.runtime.failures import FAILURES
from disaggc.runtime.feeds import Feeder, Lengths
from disaggc.runtime.memory import out_of_memory
from disaggc.runtime.messages import Address
from disaggc.runtime.ports import ports_of, wirings
from disaggc.runtime.reports import Traffic, report_of
from disaggc.runtime.routine import TRIES, Habit, habit, moved
from disaggc.runtime.sessions import Opener
from disaggc.runtime.states import Piece
from disaggc.runtime.tensors import Array, LastRows, nbytes, same
from disaggc.runtime.threads import threads_in_effect
from disaggc.runtime.transport import Event, Order, Result
from disaggc.runtime.wiring import Hop, Phase, Wiring


@dataclass(slots=True)
class _Group:
    """A micro-batch: where it runs, and how far it is.

    Attributes:
        cached: Tokens of each request that were cached when the phase began, and ``grown`` since for each.
        sent: What each hop carried in the last step, with its bytes.
        routine: The last stages of a step, once all their tensors stay where they are; empty until then.
        repeated: Steps taken by routine whose messages are not counted yet.
        stamps: When each such step began and each of its stages ended, one step after the other.
    """

    number: int
    phase: Phase
    wiring: Wiring
    executors: Mapping[str, Executor]
    addresses: Mapping[str, Address]
    feeder: Feeder
    cached: Array
    tokens: Array
    keep_logits: bool
    is_ragged: bool
    grown: int = 0
    step: int = 0
    rows: LastRows = field(default_factory=LastRows)
    sent: dict[tuple[int, str], tuple[tuple[OrtValue, ...], int]] = field(default_factory=dict)
    routine: tuple[Habit, ...] = ()
    repeated: int = 0
    stamps: list[int] = field(default_factory=list)

    @property
    def lengths(self) -> Lengths:
        """How far its requests are."""
        return Lengths.of(self.cached + self.grown, self.tokens.shape[1], is_ragged=self.is_ragged)


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
        self._plan = plan
        self._threads = threads
        self._traced = traced
        self._executors = {
            Address(pool, instance): Executor(pool, plan, opener, traced)
            for pool, count in instances.items()
            for instance in range(count)
        }
        stages = [ports for executor in self._executors.values() for ports in ports_of(executor)]
        self.wirings: dict[Phase, Wiring] = wirings(plan, stages)
        for phase, wiring in self.wirings.items():
            for executor in self._executors.values():
                executor.connect(phase, wiring)
        self._groups: dict[int, _Group] = {}
        self._work: deque[tuple[_Group, int]] = deque()
        self._events: deque[Event] = deque()
        self._traffic: dict[Address, dict[str, Traffic]] = {}
        self._carried: dict[Address, list[Carried]] = {}

    def order(self, address: Address, order: Order) -> None:
        """Tell an executor to do something; what the lead is told is worked on in ``wait``."""
        try:
            self._obey(address, order)
        except (DisaggcError, MemoryError) as error:
            assert not isinstance(order, Close)
            self._events.append(_failed(order.group, error))

    def wait(self, seconds: float) -> Sequence[Event]:  # noqa: ARG002 - nothing comes from elsewhere
        """Work until something has happened, or there is nothing to do."""
        while not self._events and self._work:
            group, steps = self._work.popleft()
            if group.number not in self._groups:
                continue
            try:
                self._events.append(self._take(group, steps))
            except (DisaggcError, MemoryError) as error:
                self._events.append(_failed(group.number, error))
        events = tuple(self._events)
        self._events.clear()
        return events

    def recover(self) -> int:
        """Forget everything."""
        self._work.clear()
        self._events.clear()
        self._groups.clear()
        for executor in self._executors.values():
            for number in executor.groups():
                executor.end(number)
        return 0

    def report(self) -> Sequence[Reported]:
        """What each executor did since the last report."""
        threads = threads_in_effect(self._threads)
        traffic, self._traffic = self._traffic, {}
        carried, self._carried = self._carried, {}
        return tuple(
            report_of(address, executor, threads, traffic.get(address, {}), carried.get(address, ()))
            for address, executor in self._executors.items()
        )

    def close(self) -> None:
        """Nothing is held that the interpreter does not let go of."""

    # orders --------------------------------------------------------------------------------------

    def _obey(self, address: Address, order: Order) -> None:
        executor = self._executors[address]
        match order:
            case Prefill():
                kept = self.wirings["prefill"].kept_by(address.pool)
                executor.begin(order.group, kept, len(order.tokens), order.capacity)
                self._open(address, order, "prefill", np.array(order.tokens, np.int64), 1)
            case Form():
                pieces = [Piece(share.group, share.rows, share.cached) for share in order.shares]
                kept = self.wirings["decode"].kept_by(address.pool)
                executor.form(order.group, kept, pieces, order.capacity)
                self._open(address, order, "decode", np.array(order.tokens, np.int64)[:, None], order.steps)
            case More():
                self._work.append((self._groups[order.group], order.steps))
            case Close():
                for number in order.groups:
                    self._groups.pop(number, None)
                    executor.end(number)

    def _open(self, address: Address, order: Prefill | Form, phase: Phase, tokens: Array, steps: int) -> None:
        """Once for all executors, when the lead is told."""
        wiring = self.wirings[phase]
        if address.pool != wiring.logits:
            return
        heirs = order.heirs if isinstance(order, Prefill) else {}
        places = {pool: Address(pool, instance) for pool, instance in {**heirs, **order.route}.items()}
        shares = order.shares if isinstance(order, Form) else ()
        cached = np.array([n for share in shares for n in share.cached] or [0] * len(tokens), np.int64)
        read = {name for names in wiring.feeds.values() for name in names}
        group = self._groups[order.group] = _Group(
            number=order.group,
            phase=phase,
            wiring=wiring,
            executors={pool: self._executors[place] for pool, place in places.items()},
            addresses=places,
            feeder=Feeder([feed for feed in self._plan.feeds if feed.input in read]),
            cached=cached,
            tokens=tokens,
            keep_logits=order.keep_logits,
            is_ragged=bool((cached != cached[0]).any()),
        )
        self._work.append((group, steps))

    # steps ---------------------------------------------------------------------------------------

    def _take(self, group: _Group, steps: int) -> Result:
        """Take steps with a micro-batch."""
        tokens, logits = [], []
        for _ in range(steps):
            found = self._step(group)
            chosen = found.argmax(axis=-1)  # greedy: the likeliest token, the lowest id among equals
            group.grown += group.tokens.shape[1]
            group.tokens = chosen[:, None]
            group.step += 1
            tokens.append(chosen)
            if group.keep_logits:
                logits.append(found.copy())
        self._count_repeated(group)
        if group.phase == "prefill":
            self._hand_over(group)
        return Result(group.number, np.stack(tokens, axis=1), np.stack(logits, axis=1) if logits else None)

    def _step(self, group: _Group) -> Array:
        """The logits [rows, vocabulary] after one step, until the next."""
        if group.routine:
            self._repeat(group)
        else:
            self._take_all(group)
        return group.rows.of(group.executors[group.wiring.logits].value(group.number, self._plan.logits))

    def _take_all(self, group: _Group) -> None:
        """One step, looking up every tensor; stages whose tensors stay will be routine in the next."""
        tries = 0 < group.step <= TRIES and not self._traced and not _is_settling(group)
        before = _held(group) if tries else {}
        self._feed(group)
        for index, hop in enumerate(group.wiring.lent):
            self._send(group, -1 - index, hop)
        self._run(group, 0, len(group.wiring.stages))
        self._commit(group)
        if tries:
            group.routine = _routine(group, before)

    def _feed(self, group: _Group) -> None:
        """Give every pool the inputs of a step."""
        feeds = group.feeder.step(group.lengths, group.tokens)
        for pool, names in group.wiring.feeds.items():
            group.executors[pool].receive(group.number, names, [feeds[name] for name in names])

    def _run(self, group: _Group, first: int, end: int) -> None:
        """The stages of a step from the ``first`` on, up to ``end``."""
        wiring = group.wiring
        for index in range(first, end):
            group.executors[wiring.stages[index].pool].run(group.number, group.step, group.phase, index)
            for hop in wiring.hops[index]:
                self._send(group, index, hop)

    def _commit(self, group: _Group) -> None:
        """End a step."""
        for pool in group.wiring.pools:
            group.executors[pool].commit(group.number, group.wiring.kept_by(pool))

    def _repeat(self, group: _Group) -> None:
        """One step by routine; where a stage fails it goes on as usual, which mends or explains it."""
        routine, stamps = group.routine, group.stamps
        if group.feeder.is_steady:
            group.feeder.advance(group.tokens)
        else:
            self._feed(group)
        self._run(group, 0, routine[0].stage)
        begun = len(stamps)
        stamps.append(perf_counter_ns())
        try:
            for one in routine:
                one.execute()
                stamps.append(perf_counter_ns())
            group.repeated += 1
        except FAILURES:
            failed = routine[len(stamps) - begun - 1]
            self._count_repeated(group)
            group.routine = ()
            self._run(group, failed.stage, len(group.wiring.stages))
            self._commit(group)

    def _count_repeated(self, group: _Group) -> None:
        """Count stages that were run by routine, and their messages."""
        steps, group.repeated = group.repeated, 0
        stamps, group.stamps = group.stamps, []
        every = len(group.routine) + 1
        for place, one in enumerate(group.routine):
            one.tally.count(stamps[place::every], stamps[place + 1 :: every])
        first = group.routine[0].stage if group.routine else 0
        for (index, target), (tensors, size) in group.sent.items() if steps else ():
            if 0 <= index < first:
                continue
            source = group.wiring.source(index)
            self._links(group, source, target).add(len(tensors), size, steps)

    def _links(self, group: _Group, source: str, target: str) -> Traffic:
        return self._traffic.setdefault(group.addresses[source], {}).setdefault(target, Traffic())

    def _send(self, group: _Group, index: int, hop: Hop) -> None:
        """Let another executor have values; if it has them already, just count."""
        tensors = group.executors[hop.source].values(group.number, hop.names)
        known = group.sent.get((index, hop.target))
        if known is None or not same(known[0], tensors):
            known = group.sent[index, hop.target] = (tensors, sum(nbytes(value) for value in tensors))
            group.executors[hop.target].receive(group.number, hop.names, tensors)
        self._links(group, hop.source, hop.target).add(len(tensors), known[1])
        if self._traced:
            now = perf_counter_ns()
            carried = Carried(hop.source, group.number, group.step, index, now, now, known[1])
            self._carried.setdefault(group.addresses[hop.target], []).append(carried)

    def _hand_over(self, group: _Group) -> None:
        """Give the states to the executors that go on with them, and forget the rest of prefill."""
        before, after = self.wirings["prefill"].keepers, self.wirings["decode"].keepers
        held: dict[str, dict[str, OrtValue]] = {pool: {} for pool in group.executors}
        for past, pool in after.items():
            (held[pool][past],) = group.executors[before[past]].values(group.number, (past,))
        for pool, states in held.items():
            executor = group.executors[pool]
            executor.end(group.number)
            executor.receive(group.number, tuple(states), tuple(states.values()))


def _is_settling(group: _Group) -> bool:
    """Whether the next step may show that a tensor stays where it is."""
    return any(group.executors[pool].is_settling(group.number) for pool in group.wiring.pools)


def _held(group: _Group) -> dict[str, dict[str, OrtValue]]:
    """Each pool's tensors by name."""
    return {pool: group.executors[pool].held(group.number) for pool in group.wiring.pools}


def _routine(group: _Group, before: Mapping[str, Mapping[str, OrtValue]]) -> tuple[Habit, ...]:
    """The stages after the last one that writes or reads a tensor that a step puts in another's place.

    Args:
        group: After a step.
        before: What its pools held before that step.
    """
    if not group.wiring.aliased.issuperset(group.wiring.keepers):
        return ()
    unsteady = {pool: moved(before[pool], held) for pool, held in _held(group).items()}
    habits: list[Habit] = []
    for index, stage in enumerate(group.wiring.stages):
        executor = group.executors[stage.pool]
        if not executor.runs(group.phase, index):
            continue
        found = habit(executor, group.number, group.phase, index, unsteady[stage.pool])
        if found is None:
            habits.clear()
        else:
            habits.append(found)
    return tuple(habits)


def _failed(group: int, error: DisaggcError | MemoryError) -> Failed:
    told = out_of_memory(error, "a step") if isinstance(error, MemoryError) else error
    return Failed(group, type(told).__name__, str(told))
