"""An executor that acts on its own: messages in, stages run as soon as what they need is there, messages out.

Nobody tells it which micro-batch is next. Whichever has its values here goes on, so that with two
micro-batches in flight the attention pool works on one while the FFN pool works on the other
(ping-pong). How messages travel is somebody else's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter_ns

import numpy as np

from disaggc.errors import DisaggcError
from disaggc.plans import Plan
from disaggc.runtime.commands import (
    Carried,
    Close,
    Failed,
    Form,
    More,
    Prefill,
    Reported,
    StagePorts,
)
from disaggc.runtime.executor import Executor
from disaggc.runtime.feeds import Feeder
from disaggc.runtime.group import Group, Start
from disaggc.runtime.memory import out_of_memory
from disaggc.runtime.messages import DRIVER, Address, Kind, Message
from disaggc.runtime.ports import ports_of, wirings
from disaggc.runtime.posting import Endpoint, Post
from disaggc.runtime.practice import Practice
from disaggc.runtime.precedence import Waiting, rests
from disaggc.runtime.program import Program, Turn, program_of
from disaggc.runtime.reports import report_of
from disaggc.runtime.routine import TRIES
from disaggc.runtime.states import Piece, trimmed
from disaggc.runtime.tensors import Array, nbytes, number_of, view, wrap
from disaggc.runtime.wiring import Phase, Wiring

_REMEMBERED = 1024
"""Micro-batches that were closed: more than can have messages on their way."""


class Actor:
    """Acts for one executor."""

    def __init__(self, address: Address, plan: Plan, executor: Executor, endpoint: Endpoint) -> None:
        self.address = address
        self._plan = plan
        self._executor = executor
        self._endpoint = endpoint
        self._post = Post(executor, endpoint)
        self._practice = Practice(executor, self._post)
        self._wirings: dict[Phase, Wiring] = {}
        self._programs: dict[Phase, Program] = {}
        self._groups: dict[int, Group] = {}
        self._closed: deque[int] = deque(maxlen=_REMEMBERED)
        self._failed: dict[int, DisaggcError] = {}
        self._states = {state.past: state for state in plan.states}
        self._orders: deque[Prefill | Form | More | Close] = deque()
        self._ready: Waiting[Group] = Waiting()
        self._unknown: dict[int, list[tuple[Address, Message]]] = {}
        self.carried: list[Carried] | None = None
        """What arrived when, if somebody wants to know."""
        self.now: Callable[[int], None] | None = None
        """Told which micro-batch is being worked on."""

    # what it is told -----------------------------------------------------------------------------

    def ports(self) -> tuple[StagePorts, ...]:
        """What its stages read and write."""
        return tuple(ports_of(self._executor))

    def connect(self, stages: Iterable[StagePorts]) -> None:
        """Learn what all stages read and write, and so what to do when."""
        token_inputs = [feed.input for feed in self._plan.feeds if feed.kind == "token_ids"]
        for phase, wiring in wirings(self._plan, stages).items():
            self._wirings[phase] = wiring
            self._executor.connect(phase, wiring)
            if self.address.pool in wiring.pools:
                self._programs[phase] = program_of(wiring, phase, self.address.pool, token_inputs)
        for number in tuple(self._unknown):
            self._inherit(number)

    def command(self, order: Prefill | Form | More | Close) -> None:
        """Obey the driver, in order; some orders wait for states that are on their way."""
        self._orders.append(order)
        self._obey()

    def receive(self, source: Address, message: Message) -> None:
        """Take in a message from another executor."""
        if self.carried is not None and message.kind is Kind.VALUES:
            self._note(source, message)
        group = self._groups.get(message.group)
        if group is not None:
            try:
                if message.kind is Kind.VALUES and message.step == group.step and not group.is_over:
                    self._arrive(group, message)
                else:
                    self._take(group, source, message)
            except MemoryError as error:
                self._fail(group.number, out_of_memory(error, "what goes between stages"))
        elif message.group in self._closed:
            self._endpoint.forget(message.group)
        else:
            self._unknown.setdefault(message.group, []).append((source, message))
            if message.kind is Kind.STATES and self._wirings:
                self._inherit(message.group)
                self._obey()

    def is_current(self, number: int, step: int) -> bool:
        """Whether values of this step may take the place of the last one's."""
        group = self._groups.get(number)
        return group is not None and group.step == step

    def work(self) -> bool:
        """Run one stage of a micro-batch that waits for nothing; whether there was one."""
        if not self._ready:
            return False
        group = self._ready.first()
        group.is_queued = False
        if self._groups.get(group.number) is group:
            try:
                self._advance(group)
            except MemoryError as error:
                self._fail(group.number, out_of_memory(error, "what goes between stages"))
        return True

    def give_up(self, number: int, error: DisaggcError) -> None:
        """A micro-batch cannot go on here, whether or not it was heard of before."""
        self._fail(number, error)
        self._obey()

    def reset(self) -> None:
        """Forget every micro-batch."""
        for number in [*self._groups, *self._executor.groups()]:
            self._forget(number)
        self._orders.clear()
        self._failed.clear()
        self._ready.clear()
        self._unknown.clear()

    def report(self, threads: int) -> Reported:
        """What was done since the last report."""
        for group in self._groups.values():
            self._post.count_repeated(group)
        traffic = self._post.taken()
        report = report_of(self.address, self._executor, threads, traffic, self.carried or ())
        if self.carried is not None:
            self.carried = []
        return report

    # orders --------------------------------------------------------------------------------------

    def _obey(self) -> None:
        while self._orders and self._can(self._orders[0]):
            order = self._orders.popleft()
            try:
                self._carry_out(order)
            except DisaggcError as error:
                assert not isinstance(order, Close)
                self._fail(order.group, error)
            except MemoryError as error:
                if isinstance(order, Close):
                    raise
                self._fail(order.group, out_of_memory(error, "a new micro-batch"))

    def _can(self, order: Prefill | Form | More | Close) -> bool:
        """Whether all states are here that an order needs."""
        if not isinstance(order, Form):
            return True
        kept = self._programs["decode"].kept
        return all(
            not kept or self._executor.holds(share.group, kept) or share.group in self._closed
            for share in order.shares
        )

    def _carry_out(self, order: Prefill | Form | More | Close) -> None:
        match order:
            case Prefill():
                self._prefill(order)
            case Form():
                self._form(order)
            case More():
                group = self._groups.get(order.group)
                if group is not None:
                    group.left += order.steps
                    self._next_step(group)
            case Close():
                for number in order.groups:
                    self._forget(number)

    def _prefill(self, order: Prefill) -> None:
        tokens = np.array(order.tokens, np.int64)
        program = self._programs["prefill"]
        rows = len(tokens)
        self._executor.begin(order.group, program.kept, rows, order.capacity)
        cached = np.zeros(rows, np.int64)
        self._open(order, "prefill", tokens, cached, order.heirs, 1)

    def _form(self, order: Form) -> None:
        for share in order.shares:
            if share.group in self._failed:
                raise self._failed[share.group]
        pieces = [Piece(share.group, share.rows, share.cached) for share in order.shares]
        kept = self._programs["decode"].kept
        self._executor.form(order.group, kept, pieces, order.capacity)
        tokens = np.array(order.tokens, np.int64)[:, None]
        cached = np.array([n for share in order.shares for n in share.cached], np.int64)
        self._open(order, "decode", tokens, cached, {}, order.steps)

    def _open(
        self,
        order: Prefill | Form,
        phase: Phase,
        tokens: Array,
        cached: Array,
        heirs: Mapping[str, int],
        steps: int,
    ) -> None:
        program = self._programs[phase]
        feeder = Feeder([feed for feed in self._plan.feeds if feed.input in program.feeds])
        group = Group(
            number=order.group,
            program=program,
            wiring=self._wirings[phase],
            feeder=feeder,
            route=order.route,
            cached=cached,
            new=tokens.shape[1],
            tokens=tokens,
            heirs=heirs,
            keep_logits=order.keep_logits,
            is_ragged=bool((cached != cached[0]).any()),
            left=steps,
            is_in_place=self._wirings[phase].aliased.issuperset(program.kept),
            tries=TRIES if phase == "decode" and self.carried is None else 0,
        )
        self._groups[order.group] = group
        for source, message in self._unknown.pop(order.group, []):
            self._take(group, source, message)
        self._start(group)

    def _forget(self, number: int) -> None:
        self._closed.append(number)
        self._failed.pop(number, None)
        group = self._groups.pop(number, None)
        if group is not None:
            self._post.count_repeated(group)
        self._unknown.pop(number, None)
        self._executor.end(number)
        self._endpoint.forget(number)

    # messages ------------------------------------------------------------------------------------

    def _take(self, group: Group, source: Address, message: Message) -> None:
        if message.kind is Kind.STATES:
            self._keep(group.number, source, message)
            self._obey()
        elif message.step != group.step or group.is_over:
            group.early.append((source, message))
        elif message.kind is Kind.START:
            if group.told is not message.tensors:
                group.told = message.tensors
                group.tokens = view(message.tensors[0])[:, None]
            self._start(group)
        else:
            self._arrive(group, message)

    def _arrive(self, group: Group, message: Message) -> None:
        """What a stage waits for is here: values, or another pool's word that it is done."""
        if message.kind is Kind.VALUES and group.known.get(message.index) is not message.tensors:
            self._take_in(group, message)
        group.arrived.add(message.index)
        if group.is_going:
            self._go_on(group)

    def _take_in(self, group: Group, message: Message) -> None:
        """Values came as other tensors than last time."""
        names = group.program.arrivals[message.index]
        self._executor.receive(group.number, names, message.tensors)
        group.known[message.index] = message.tensors
        if group.routine and not group.unsteady.issuperset(names):
            self._practice.unlearn(group)

    def _inherit(self, number: int) -> None:
        """Keep the states of a micro-batch that was never here before."""
        rest = []
        for source, message in self._unknown.pop(number, []):
            if message.kind is Kind.STATES:
                self._keep(number, source, message)
            else:
                rest.append((source, message))
        if rest:
            self._unknown[number] = rest

    def _keep(self, number: int, source: Address, message: Message) -> None:
        names = self._bequeathed(source.pool, self.address.pool)
        self._executor.receive(number, names, message.tensors)

    def _bequeathed(self, source: str, target: str) -> tuple[str, ...]:
        """States that one pool fills in prefill and another keeps in decode."""
        before, after = self._wirings["prefill"].keepers, self._wirings["decode"].keepers
        return tuple(past for past, pool in before.items() if pool == source and after[past] == target)

    # steps ---------------------------------------------------------------------------------------

    def _start(self, group: Group) -> None:
        """Begin a step: feed the model's inputs, lend what others read, and go on."""
        try:
            self._feed(group)
        except DisaggcError as error:
            self._fail(group.number, error)
            return
        group.is_going = True
        for index, hop in group.program.lends:
            self._post.values(group, index, hop)
        self._go_on(group)

    def _feed(self, group: Group) -> None:
        if group.routine and group.feeder.is_steady:
            group.feeder.advance(group.tokens)
            return
        feeds = group.feeder.step(group.lengths, group.tokens)
        self._executor.receive(group.number, tuple(feeds), tuple(feeds.values()))

    def _go_on(self, group: Group) -> None:
        """Queue for the next stage if all is here that it needs; end the step if there is none."""
        program = group.program
        if group.turn == len(program.turns):
            if program.awaited <= group.arrived:
                self._finish(group)
        elif program.turns[group.turn].needs <= group.arrived:
            self._queue(group)

    def _queue(self, group: Group) -> None:
        """Let a micro-batch go on when its turn has come."""
        if not group.is_queued:
            group.is_queued = True
            self._ready.add(group, perf_counter_ns(), group.rests[group.turn] if group.rests else 0)

    def _advance(self, group: Group) -> None:
        """Run a stage, and see whether there is more to do."""
        if self.now is not None:
            self.now(group.number + 1)
        habit = group.routine[group.turn] if group.routine else None
        try:
            if habit is None or not self._practice.repeat(group, habit):
                self._run(group, group.program.turns[group.turn])
        except DisaggcError as error:
            self._fail(group.number, error)
            return
        group.turn += 1
        self._go_on(group)

    def _rests(self, program: Program) -> tuple[float, ...]:
        """By what its stages took here so far."""
        took = (self._executor.took_ns(program.phase, turn.stage) for turn in program.turns)
        return rests([(ns, bool(turn.hops)) for ns, turn in zip(took, program.turns, strict=True)])

    def _run(self, group: Group, turn: Turn) -> None:
        """Run a stage, and send what it wrote."""
        self._executor.run(group.number, group.step, group.program.phase, turn.stage)
        for hop in turn.hops:
            self._post.values(group, turn.stage, hop)

    def _finish(self, group: Group) -> None:
        """End a step."""
        program = group.program
        chosen = self._choose(group) if program.is_lead else None
        if not group.is_in_place:
            self._executor.commit(group.number, program.kept)
        if group.tries:
            self._practice.learn(group)
        if program.phase == "decode" and group.step < TRIES:
            group.rests = self._rests(program)
        if program.reports:
            self._post.done(group, program.turns[-1].stage)
        group.end_step()
        if program.phase == "prefill":
            self._bequeath(group)
        if chosen is not None:
            self._lead(group, chosen)
        elif not (program.is_started or group.is_over):
            self._start(group)
        if group.early:
            self._take_early(group)

    def _choose(self, group: Group) -> Array:
        """Greedy: the likeliest token [rows], the lowest id among equals."""
        logits = group.rows.of(self._executor.value(group.number, self._plan.logits))
        if group.keep_logits:
            group.logits.append(logits.copy())
        chosen: Array = logits.argmax(axis=-1)
        return chosen

    def _lead(self, group: Group, chosen: Array) -> None:
        """Go on to the next step, or tell the driver."""
        group.chosen.append(chosen)
        group.tokens = chosen[:, None]
        group.left -= 1
        if group.left:
            self._next_step(group)
            return
        results = [wrap(np.ascontiguousarray(np.array(group.chosen).T))]
        if group.logits:
            results.append(wrap(np.stack(group.logits, axis=1)))
        group.chosen, group.logits = [], []
        self._endpoint.send(DRIVER, Message(Kind.RESULT, group.number, group.step, 0, results))

    def _next_step(self, group: Group) -> None:
        """As the lead: tell the others to take the next step, and begin it; its stages wait their turn."""
        if not group.program.is_lead or group.is_going:
            return
        if group.start is not None:
            group.start.tokens[...] = group.tokens[:, 0]
            for send in group.start.sends:
                send(group.step)
        elif group.program.started:
            self._start_others(group)
        self._start(group)

    def _start_others(self, group: Group) -> None:
        """Let the others begin for the first time; from then on they find the tokens in the same place."""
        tensor = self._executor.tensor(group.number, (len(group.tokens),), number_of("int64"))
        tokens = view(tensor)
        tokens[...] = group.tokens[:, 0]
        message = Message(Kind.START, group.number, group.step, 0, (tensor,))
        targets = [Address(pool, group.route[pool]) for pool in group.program.started]
        for target in targets:
            self._endpoint.send(target, message)
        sends = tuple(self._endpoint.again(target, message) for target in targets)
        group.start = Start(tensor, tokens, sends)

    def _take_early(self, group: Group) -> None:
        """Take in what arrived before its step began here."""
        early, group.early = group.early, []
        for source, message in early:
            self._take(group, source, message)

    def _bequeath(self, group: Group) -> None:
        """At the end of prefill: keep the states that decode wants here, send those it wants elsewhere."""
        group.is_over = True
        own = self.address.pool
        for pool, instance in group.heirs.items():
            names = self._bequeathed(own, pool)
            if pool == own or not names:
                continue
            values = self._executor.values(group.number, names)
            tokens = group.lengths.cached
            live = [
                value if self._executor.is_shared(value) else trimmed(self._states[name], value, tokens)
                for name, value in zip(names, values, strict=True)
            ]
            message = Message(Kind.STATES, group.number, group.step, 0, live)
            self._endpoint.send(Address(pool, instance), message)
        self._executor.retain(group.number, self._bequeathed(own, own))

    def _fail(self, number: int, error: DisaggcError) -> None:
        """Give a micro-batch up, and say why; others go on."""
        self._forget(number)
        self._failed[number] = error
        self._endpoint.tell(Failed(number, type(error).__name__, str(error)))

    def _note(self, source: Address, message: Message) -> None:
        assert self.carried is not None
        size = sum(nbytes(value) for value in message.tensors)
        self.carried.append(
            Carried(
                source.pool,
                message.group,
                message.step,
                message.index,
                message.sent_ns,
                perf_counter_ns(),
                size,
            )
        )
