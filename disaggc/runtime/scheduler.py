"""Continuous batching over a transport: requests come, are admitted, prefilled, decoded and leave.

Decode goes in runs of a few steps that executors take among themselves. Between two runs a
micro-batch may change: who is finished leaves, who was prefilled joins. When executors are lost, so
is all state; what every request has said so far is here, and is prefilled again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from disaggc import errors
from disaggc.errors import DisaggcError, ExecutorError, OutOfMemoryError
from disaggc.runtime.commands import Close, Failed, Form, More, Prefill, Share
from disaggc.runtime.inbox import Inbox
from disaggc.runtime.lanes import Batch, Lane, Member
from disaggc.runtime.messages import Address
from disaggc.runtime.requests import Live
from disaggc.runtime.transport import Lost, Result, Transport
from disaggc.runtime.waiting import Waiting
from disaggc.runtime.wiring import Phase

QUANTUM = 16
"""Decode steps between two chances to join and leave."""
STRIKES = 3
"""Executors that a request may cost at one and the same token."""
LOSSES = 8
"""Losses in a row without a single new token, after which the machine is at fault."""
_TICK_S = 1.0
_GLANCE_S = 5e-3
"""How long a request may wait for a scheduler that waits for its executors."""
_WEIGHT = 0.25
"""Of the newest run of steps in the mean time of one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be in flight at a time.

    Attributes:
        rows: Requests of a lane.
        kv_tokens: Tokens that all caches together may come to hold; None for no limit.
        ragged: Whether requests of unequal length may share a micro-batch.
        quantum_s: About how long a run of decode steps may take, at least one step; None for as long as
            ``QUANTUM`` steps do. Nobody joins or hears of tokens before its end.
    """

    rows: int
    kv_tokens: int | None
    ragged: bool
    quantum_s: float | None = None


@dataclass(frozen=True, slots=True)
class Worked:
    """A micro-batch was at work: from giving it out to hearing of it.

    Attributes:
        group: The micro-batch.
        phase: What it did.
        steps: Steps that it took.
        tokens: Tokens that went in.
        start_s, end_s: In seconds after the run has begun.
        after: What had to be done before, as indices into the work that was done.
    """

    group: int
    phase: Phase
    steps: int
    tokens: int
    start_s: float
    end_s: float
    after: tuple[int, ...]


class Scheduler:
    """Takes requests to their ends: those that it is given (``run``), or whatever comes (``serve``)."""

    def __init__(
        self,
        transport: Transport,
        lanes: Sequence[Lane],
        limits: Limits,
        numbers: Iterator[int],
        keep_logits: bool = False,
        waiting: Waiting | None = None,
    ) -> None:
        """Prepare.

        Args:
            transport: The way to the executors.
            lanes: Micro-batches in flight.
            limits: What may be in flight at a time.
            numbers: Numbers of micro-batches that these executors have not seen yet.
            keep_logits: Whether requests keep theirs.
            waiting: Whose turn is next, where tiers share the executors.
        """
        self._transport = transport
        self._lanes = list(lanes)
        self._limits = limits
        self._numbers = numbers
        self._keep_logits = keep_logits
        self._waiting = Waiting() if waiting is None else waiting
        self._at_work: dict[int, tuple[Lane, Batch, float, int]] = {}
        self._turns = itertools.count()
        self._begun = 0.0
        self._losses = 0
        self._step_s = 0.0
        self._is_serving = False
        self.restarts = 0
        self.worked: list[Worked] = []

    def run(self, requests: Sequence[Live]) -> None:
        """Take every request to its last token, or to its error.

        Raises:
            ExecutorError: Executors keep being lost.
        """
        self._begun = perf_counter()
        pending = [live for live in requests if not live.is_done]
        self._waiting.add(sorted(pending, key=lambda live: live.request.arrival_s))
        while self._is_busy:
            self._round()

    def serve(self, inbox: Inbox) -> None:
        """Take requests as they come to their ends, until the inbox is closed and all have ended.

        What was done is not kept, as it would grow for ever.

        Raises:
            ExecutorError: Executors keep being lost.
        """
        self._begun = perf_counter()
        self._is_serving = True
        while self._is_busy or inbox.wait():
            new, unwanted = inbox.take()
            self._waiting.add(new)
            for live in unwanted:
                if not live.is_done:
                    live.withdraw()
            if unwanted:
                self._waiting.drop_done()
            if self._is_busy:
                self._round()

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiting) or any(lane.all for lane in self._lanes)

    def _round(self) -> None:
        """Let requests begin, give lanes something to do, and hear what came of it."""
        self._admit()
        for lane in self._lanes:
            self._turn(lane)
        if self._at_work:
            self._listen()
        elif not self._is_serving:
            self._sleep_until_arrival()

    # admission -----------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start to prefill what has come and finds room, in order of arrival; nobody is overtaken."""
        if not self._waiting:
            return
        buckets: dict[tuple[int, int, int], list[Live]] = {}
        planned = [lane.rows for lane in self._lanes]
        reserved = sum(live.request.context for lane in self._lanes for b in lane.all for _, live in b.live())
        while (live := self._waiting.head()) is not None and live.request.arrival_s <= self._now():
            if self._is_kept_apart(live, [other for rows in buckets.values() for other in rows]):
                break
            place = min(range(len(planned)), key=planned.__getitem__)
            reserved += live.request.context
            if planned[place] >= self._limits.rows or reserved > (self._limits.kv_tokens or reserved):
                break
            self._waiting.pop()
            live.is_running = True
            live.admitted_s = live.admitted_s or perf_counter()
            planned[place] += 1
            key = (place, len(live.prefix), live.index if live.alone else -1)
            buckets.setdefault(key, []).append(live)
        for (place, _, _), rows in buckets.items():
            self._prefill(self._lanes[place], rows)

    def _is_kept_apart(self, live: Live, admitted: Sequence[Live]) -> bool:
        """Whether a request has to wait because it, or one that runs, is to run while nobody else does."""
        if live.exclusive:
            return bool(admitted) or any(lane.all for lane in self._lanes)
        running = (other for lane in self._lanes for batch in lane.all for _, other in batch.live())
        return any(other.exclusive for other in (*admitted, *running))

    def _prefill(self, lane: Lane, rows: list[Live]) -> None:
        batch = Batch(next(self._numbers), "prefill", [*rows])
        lane.prefilling.append(batch)
        order = Prefill(
            group=batch.number,
            tokens=tuple(live.prefix for live in rows),
            capacity=max(live.request.context for live in rows),
            route=dict(lane.route),
            heirs={pool: lane.route[pool] for pool in self._transport.wirings["decode"].pools},
            keep_logits=self._keep_logits,
        )
        self._at_work[batch.number] = (lane, batch, perf_counter(), 1)
        for address in self._addresses(lane, "prefill"):
            self._transport.order(address, order)

    # decode --------------------------------------------------------------------------------------

    def _turn(self, lane: Lane) -> None:
        """Give a lane that has nothing to decode its next micro-batch."""
        if lane.decoding is not None:
            return
        self._close(lane, lane.drop_finished())
        members = lane.next_members(self._limits.ragged)
        if not members:
            return
        steps = min(self._quantum(), *(member.live.left for member in members))
        if lane.is_whole(members):
            batch = members[0].batch
            lane.batches.remove(batch)
            lead = self._transport.wirings["decode"].logits
            self._transport.order(Address(lead, lane.route[lead]), More(batch.number, steps))
        else:
            batch = self._form(lane, members, steps)
        batch.turn = next(self._turns)
        lane.decoding = batch
        self._at_work[batch.number] = (lane, batch, perf_counter(), steps)

    def _quantum(self) -> int:
        """Decode steps that may be taken without a word."""
        quantum_s = self._limits.quantum_s
        if quantum_s is None:
            return QUANTUM
        return min(QUANTUM, max(1, int(quantum_s / self._step_s))) if self._step_s else 1

    def _form(self, lane: Lane, members: Sequence[Member], steps: int) -> Batch:
        """Make one micro-batch of them, and let it decode."""
        after = {work for member in members for work in member.batch.after}
        rows: list[Live | None] = [member.live for member in members]
        batch = Batch(next(self._numbers), "decode", rows, after=tuple(sorted(after)))
        order = Form(
            group=batch.number,
            shares=tuple(_shares(members)),
            tokens=tuple(member.live.tokens[-1] for member in members),
            capacity=max(member.live.request.context for member in members),
            route=dict(lane.route),
            steps=steps,
            keep_logits=self._keep_logits,
        )
        for address in self._addresses(lane, "decode"):
            self._transport.order(address, order)
        for member in members:
            member.batch.rows[member.row] = None
        self._close(lane, lane.drop_finished())
        return batch

    def _close(self, lane: Lane, batches: Sequence[Batch]) -> None:
        if batches:
            order = Close(tuple(batch.number for batch in batches))
            for address in self._addresses(lane):
                self._transport.order(address, order)

    def _addresses(self, lane: Lane, phase: Phase | None = None) -> list[Address]:
        """The executors that serve a lane, in one phase or in both."""
        pools = self._transport.instances if phase is None else self._transport.wirings[phase].pools
        return [Address(pool, lane.route[pool]) for pool in pools]

    # events --------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Wait for something to happen, and deal with it."""
        for event in self._transport.wait(self._patience()):
            match event:
                case Result():
                    self._take(event)
                case Failed():
                    self._give_up(event)
                case Lost():
                    self._recover(event)
                    return

    def _now(self) -> float:
        return perf_counter() - self._begun

    def _patience(self) -> float:
        if self._is_serving:
            return _GLANCE_S
        return min(_TICK_S, self._until_arrival() or _TICK_S)

    def _sleep_until_arrival(self) -> None:
        time.sleep(self._until_arrival())

    def _until_arrival(self) -> float:
        """Seconds until the next request comes; 0 if it has come, or none will."""
        live = self._waiting.head()
        return max(live.request.arrival_s - self._now(), 0.0) if live else 0.0

    def _take(self, result: Result) -> None:
        """Note new tokens; the micro-batch may go on."""
        lane, batch, start, steps = self._at_work.pop(result.group)
        now = self._now()
        fed = len(batch.rows) * steps
        for row, live in enumerate(batch.rows):
            assert live is not None
            fed += len(live.prefix) - 1 if batch.phase == "prefill" else 0
            if live.is_withdrawn:
                continue
            live.first_s = live.first_s if live.tokens else now
            live.last_s = now
            live.hear(result.tokens[row].tolist(), () if result.logits is None else tuple(result.logits[row]))
        self._note(batch, steps, fed, start - self._begun, now)
        self._losses = 0
        self._rest(lane, batch)
        lane.batches.append(batch)

    def _note(self, batch: Batch, steps: int, fed: int, start_s: float, end_s: float) -> None:
        """Remember what was done and how long it took."""
        if batch.phase == "decode":
            step_s = (end_s - start_s) / steps
            self._step_s += (step_s - self._step_s) * (_WEIGHT if self._step_s else 1.0)
        if not self._is_serving:
            work = Worked(batch.number, batch.phase, steps, fed, start_s, end_s, batch.after)
            batch.after = (len(self.worked),)
            self.worked.append(work)

    def _rest(self, lane: Lane, batch: Batch) -> None:
        """A micro-batch is no longer at work."""
        if batch.phase == "prefill":
            lane.prefilling.remove(batch)
        else:
            lane.decoding = None

    def _give_up(self, failed: Failed) -> None:
        """A micro-batch failed: its requests are tried one by one; one that was alone has failed.

        For want of memory, which others may have had, it must have been all alone.
        """
        found = self._take_out(failed.group)
        if found is None:
            return
        lane, batch = found
        self._close(lane, [batch])
        lives = [live for _, live in batch.live()]
        is_memory = failed.error == OutOfMemoryError.__name__
        is_single = len(batch.rows) == 1  # whoever was withdrawn may have been at fault
        for live in lives:
            if is_single and is_memory and not live.exclusive:
                live.exclusive = True
            elif is_single:
                live.fail(_error_for(live, failed))
            live.alone = True
        self._requeue(lives)

    def _take_out(self, group: int) -> tuple[Lane, Batch] | None:
        """Take a micro-batch out of its lane, at work or not; None if it is over."""
        if group in self._at_work:
            lane, batch, _, _ = self._at_work.pop(group)
            self._rest(lane, batch)
            return lane, batch
        for lane in self._lanes:
            for batch in lane.batches:
                if batch.number == group:
                    lane.batches.remove(batch)
                    return lane, batch
        return None

    def _recover(self, lost: Lost) -> None:
        """Start again from what every request has said."""
        self._losses += 1
        lives = [live for lane in self._lanes for batch in lane.all for _, live in batch.live()]
        for number in lost.groups & self._at_work.keys():
            for _, live in self._at_work[number][1].live():
                _blame(live, lost)
        for lane in self._lanes:
            lane.batches, lane.prefilling, lane.decoding = [], [], None
        self._at_work.clear()
        if self._losses > LOSSES:
            raise ExecutorError(
                f"Executors were lost {self._losses} times in a row ({lost.reason}). "
                f"Look for what ends them: memory, or limits of this machine."
            )
        self.restarts += self._transport.recover()
        self._requeue(lives)

    def _requeue(self, lives: Sequence[Live]) -> None:
        """Let requests begin again, before those that have not begun."""
        for live in lives:
            live.is_running = False
        self._waiting.put_back(lives)


def error_of(name: str, text: str) -> DisaggcError:
    """The error that an executor told of; of our own classes only."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, DisaggcError)):
        kind = ExecutorError
    return kind(text)


def _error_for(live: Live, failed: Failed) -> DisaggcError:
    """Why a request was given up; for want of memory, with how much it asks for."""
    if failed.error != OutOfMemoryError.__name__:
        return error_of(failed.error, failed.text)
    asked = f"{len(live.request.prompt):,} tokens, with {live.request.max_new_tokens:,} to come"
    return OutOfMemoryError(f"Request {live.index} of {asked}, was given up. {failed.text}")


def _shares(members: Sequence[Member]) -> Iterator[Share]:
    """Members of one micro-batch after the other, as they come."""
    for _, group in itertools.groupby(members, key=lambda member: member.batch.number):
        some = list(group)
        rows = tuple(member.row for member in some)
        yield Share(some[0].batch.number, rows, tuple(member.live.cached for member in some))


def _blame(live: Live, lost: Lost) -> None:
    """A request that executors were lost over goes on alone, and not for ever."""
    strikes = live.strike()
    live.alone = live.alone or strikes > 1
    live.exclusive = live.exclusive or strikes > 1
    if strikes >= STRIKES:
        who = ", ".join(map(str, lost.addresses))
        live.fail(
            ExecutorError(
                f"Request {live.index} was given up: {strikes} times in a row an executor was lost over its "
                f"token {len(live.tokens)} (the last was {who}: {lost.reason}). "
                f"It may need more memory than there is."
            )
        )
