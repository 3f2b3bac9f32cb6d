"""One executor a pool instance: runs its stages and keeps its share of the state between steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns

from disaggc.errors import ExecutorError
from disaggc.plans import Plan, StateRef
from disaggc.runtime.engine import OrtValue, Session
from disaggc.runtime.failures import FAILURES, run_error
from disaggc.runtime.outbox import Apart, Sharing
from disaggc.runtime.sessions import Opener
from disaggc.runtime.stage import BoundStage, Outline, Values
from disaggc.runtime.states import Piece, Place, gather, initial
from disaggc.runtime.tensors import blank
from disaggc.runtime.wiring import Phase, Ports, Wiring, phase_of

PHASES: tuple[Phase, ...] = ("prefill", "decode")


@dataclass(slots=True)
class Tally:
    """How often a stage ran, and how long: its kernels with the binding of their tensors."""

    calls: int = 0
    nanoseconds: int = 0

    def count(self, starts: Sequence[int], ends: Sequence[int]) -> None:
        """Runs that are over: when they started and ended, in ns. A start without an end does not count."""
        self.calls += len(ends)
        self.nanoseconds += sum(ends) - sum(starts[: len(ends)])


@dataclass(frozen=True, slots=True)
class Span:
    """One run of a stage, on the machine's monotonic clock."""

    phase: Phase
    index: int
    group: int
    step: int
    start_ns: int
    end_ns: int


@dataclass(slots=True)
class _Memory:
    """What an executor holds for one micro-batch: tensors by name, and its stages bound to them.

    ``version`` changes whenever a name comes to mean another tensor.
    """

    values: Values = field(default_factory=dict)
    version: int = 0
    bound: dict[tuple[Phase, int], BoundStage] = field(default_factory=dict)


class Executor:
    """Runs the stages of one pool.

    It holds tensors by micro-batch and name: activations until the phase is over, states until
    the micro-batch is. What it needs from other pools is put there by whoever receives it.
    """

    def __init__(
        self,
        pool: str,
        plan: Plan,
        opener: Opener,
        traced: bool = False,
        sharing: Sharing | None = None,
    ) -> None:
        """Open a session for each stage of the pool that gives anything to anybody.

        Args:
            pool: It.
            plan: The plan.
            opener: Opens sessions.
            traced: Whether every run of a stage is noted.
            sharing: Where tensors may lie that other executors read; nowhere if left out.

        Raises:
            PlanError: A stage's subgraph is missing or cannot be loaded.
        """
        self.pool = pool
        self._states: Mapping[str, StateRef] = {state.past: state for state in plan.states}
        self._tokens = [feed.input for feed in plan.feeds if feed.kind == "token_ids"]
        self._sessions: dict[tuple[Phase, int], Session] = {}
        self._ports: dict[tuple[Phase, int], Ports] = {}
        self._outlines: dict[tuple[Phase, int], Outline] = {}
        self._wiring: dict[Phase, Wiring] = {}
        self._groups: dict[int, _Memory] = {}
        self._traced = traced
        self._sharing = Apart() if sharing is None else sharing
        self.tallies: dict[tuple[Phase, int], Tally] = {}
        self.spans: list[Span] = []
        for phase in PHASES:
            for index, stage in enumerate(phase_of(plan, phase).stages):
                if stage.pool == pool and (stage.outputs or stage.states):
                    self._sessions[phase, index] = session = opener(stage)
                    self._ports[phase, index] = _declared(session)
                    self.tallies[phase, index] = Tally()

    def recount(self) -> None:
        """Begin to count anew."""
        for tally in self.tallies.values():
            tally.calls = tally.nanoseconds = 0
        self.spans = []

    def ports(self, phase: Phase, index: int) -> Ports:
        """What the subgraph of a stage reads and writes; nothing if it has no use."""
        return self._ports.get((phase, index), Ports({}, {}))

    def connect(self, phase: Phase, wiring: Wiring) -> None:
        """Learn how the stages of a phase hang together."""
        self._wiring[phase] = wiring
        for stage in self._sessions:
            if stage[0] == phase:
                self._outlines[stage] = self._outline(*stage, wiring)

    def begin(self, group: int, pasts: Collection[str], rows: int, capacity: int) -> None:
        """Start a micro-batch: make the empty states that this pool keeps.

        Args:
            group: The micro-batch.
            pasts: The states.
            rows: Its requests.
            capacity: Tokens that a state of fixed buffer must hold.

        Raises:
            OutOfMemoryError: There is no memory for them.
        """
        extents = {"batch": rows, "capacity": capacity}
        places = self._places(group, "prefill")
        values: Values = {past: initial(self._states[past], extents, places.get(past)) for past in pasts}
        self._groups[group] = _Memory(values)

    def form(self, group: int, pasts: Collection[str], pieces: Sequence[Piece], capacity: int) -> None:
        """Start a micro-batch with rows of others' states; see ``begin``.

        Args:
            group: The micro-batch.
            pasts: The states.
            pieces: Which rows, of which micro-batch.
            capacity: Tokens that a state of fixed buffer must hold.

        Raises:
            ExecutorError: A state is not here.
            OutOfMemoryError: There is no memory for them.
        """
        missing = [piece.group for piece in pieces if not self.holds(piece.group, pasts)]
        if pasts and missing:
            raise ExecutorError(
                f"The states of micro-batch {missing[0]} are not on '{self.pool}'. Run again."
            )
        memory, places = _Memory(), self._places(group, "decode")
        for past in pasts:
            held = [self._groups[piece.group].values[past] for piece in pieces]
            place = places.get(past)
            may_keep = place is None and not self._sharing.is_shared(held[0])
            memory.values[past] = gather(
                self._states[past], held, pieces, capacity, may_keep=may_keep, place=place
            )
        self._groups[group] = memory

    def holds(self, group: int, pasts: Collection[str]) -> bool:
        """Whether these states of a micro-batch are here."""
        memory = self._groups.get(group)
        return memory is not None and all(past in memory.values for past in pasts)

    def receive(self, group: int, names: Sequence[str], tensors: Sequence[OrtValue]) -> None:
        """Take in values of a micro-batch."""
        memory = self._groups.get(group)
        if memory is None:
            memory = self._groups[group] = _Memory()
        for name, tensor in zip(names, tensors, strict=True):
            if memory.values.get(name) is not tensor:
                memory.values[name] = tensor
                memory.version += 1

    def values(self, group: int, names: Sequence[str]) -> tuple[OrtValue, ...]:
        """Values of a micro-batch that are here."""
        held = self._groups[group].values
        return tuple([held[name] for name in names])

    def value(self, group: int, name: str) -> OrtValue:
        """One value of a micro-batch that is here."""
        return self._groups[group].values[name]

    def run(self, group: int, step: int, phase: Phase, index: int) -> None:
        """Execute a stage for a micro-batch; its inputs are here.

        Raises:
            JobError: A token or a position is beyond what the model has tables for.
            OutOfMemoryError: There is no memory for it.
            PlanError: The subgraph fails.
        """
        if (phase, index) not in self._sessions:
            return
        start = perf_counter_ns()
        memory = self._groups[group]
        stage = memory.bound.get((phase, index))
        try:
            if stage is None:
                stage = memory.bound[phase, index] = self._bind(memory, group, phase, index)
            if stage.run(memory.values, memory.version):
                memory.version += 1
        except FAILURES as error:
            where = self._wiring[phase].stages[index].subgraph or f"{phase} stage {index}"
            raise run_error(error, where, self._token_ids(memory)) from error
        end = perf_counter_ns()
        tally = self.tallies[phase, index]
        tally.calls += 1
        tally.nanoseconds += end - start
        if self._traced:
            self.spans.append(Span(phase, index, group, step, start, end))

    def version(self, group: int) -> int:
        """Changes whenever a name of a micro-batch comes to mean another tensor here."""
        return self._groups[group].version

    def held(self, group: int) -> dict[str, OrtValue]:
        """All values of a micro-batch that are here."""
        return dict(self._groups[group].values)

    def is_settling(self, group: int) -> bool:
        """Whether the next step may show that a tensor of a micro-batch stays where it is."""
        return any(stage.is_settling for stage in self._groups[group].bound.values())

    def settled(self, group: int, phase: Phase, index: int) -> Callable[[], None] | None:
        """What executes a stage again with the tensors of its last step; None if some may move."""
        stage = self._groups[group].bound.get((phase, index))
        return stage.settled if stage is not None else None

    def took_ns(self, phase: Phase, index: int) -> float:
        """What a run of a stage took on average since runs were last counted; 0 if it did not run."""
        tally = self.tallies.get((phase, index))
        return tally.nanoseconds / tally.calls if tally is not None and tally.calls else 0.0

    def runs(self, phase: Phase, index: int) -> bool:
        """Whether there is anything to run for a stage."""
        return (phase, index) in self._sessions

    def tensor(self, group: int, shape: Sequence[int], number: int) -> OrtValue:
        """A tensor to be filled, which other executors read where it lies, if there is such a place."""
        placed = self._sharing.tensor(group, shape, number)
        return blank(shape, number)[1] if placed is None else placed

    def is_shared(self, value: OrtValue) -> bool:
        """Whether a tensor lies in shared memory, where other executors can read it."""
        return self._sharing.is_shared(value)

    def commit(self, group: int, pasts: Collection[str]) -> None:
        """End a step: what was present becomes past."""
        memory = self._groups[group]
        for past in pasts:
            present = memory.values[self._states[past].present]
            if memory.values[past] is not present:
                memory.values[past] = present
                memory.version += 1

    def retain(self, group: int, pasts: Collection[str]) -> None:
        """Forget everything of a micro-batch but these states, at the end of a phase."""
        held = self._groups[group].values
        self._groups[group] = _Memory({past: held[past] for past in pasts})

    def end(self, group: int) -> None:
        """Forget a micro-batch."""
        self._groups.pop(group, None)

    def groups(self) -> Iterator[int]:
        """The micro-batches that are here."""
        return iter(tuple(self._groups))

    def _places(self, group: int, phase: Phase) -> dict[str, Place]:
        """Where states of a micro-batch should lie that others read: those lent, and those handed over."""
        lent = [hop for hop in self._wiring[phase].lent if hop.source == self.pool]
        names = {name for hop in lent for name in hop.names}
        if phase == "prefill":
            after = self._wiring["decode"].keepers
            names.update(past for past, keeper in after.items() if keeper != self.pool)
        place = partial(self._sharing.tensor, group)
        return dict.fromkeys(names, place)

    def _outline(self, phase: Phase, index: int, wiring: Wiring) -> Outline:
        """What is known of a stage before it has tensors."""
        ports = self._ports[phase, index]
        states = [state for state in self._states.values() if state.present in ports.outputs]
        in_place = {state.present: state.past for state in states if state.past in wiring.aliased}
        others = ports.outputs.keys() - {state.present for state in states}
        steady = {name for name in others if wiring.is_steady(ports.outputs[name])}
        repeatable = all(state.present not in in_place or _is_by_position(state) for state in states)
        return Outline(
            session=self._sessions[phase, index],
            inputs=tuple(ports.inputs),
            outputs=tuple(ports.outputs),
            in_place=in_place,
            steady=frozenset(steady),
            observed=frozenset(others - steady if repeatable else ()),
            leaving=frozenset(name for hop in wiring.hops[index] for name in hop.names),
            may_repeat=repeatable,
        )

    def _bind(self, memory: _Memory, group: int, phase: Phase, index: int) -> BoundStage:
        outline = self._outlines[phase, index]
        buffers = {present: memory.values[past] for present, past in outline.in_place.items()}
        memory.values.update(buffers)
        return BoundStage(outline, buffers, partial(self._sharing.tensor, group))

    def _token_ids(self, memory: _Memory) -> set[int]:
        held = [memory.values[name] for name in self._tokens if name in memory.values]
        return {int(token) for value in held for token in value.numpy().ravel()}


def _declared(session: Session) -> Ports:
    return Ports(
        {port.name: port.shape for port in session.get_inputs()},
        {port.name: port.shape for port in session.get_outputs()},
    )


def _is_by_position(state: StateRef) -> bool:
    """Whether a step writes a state in place where its tokens belong: it may be taken again."""
    return state.axis is not None and state.shape[state.axis] == "capacity"
