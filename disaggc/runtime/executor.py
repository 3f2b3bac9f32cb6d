"""One executor a pool: runs its stages and keeps its share of the state between steps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns

from disaggc.plans import Plan, StateRef
from disaggc.runtime.engine import OrtValue, Session
from disaggc.runtime.failures import FAILURES, run_error
from disaggc.runtime.sessions import Opener
from disaggc.runtime.stage import BoundStage, Values
from disaggc.runtime.states import initial
from disaggc.runtime.wiring import Phase, Ports, Wiring, phase_of

_PHASES: tuple[Phase, ...] = ("prefill", "decode")


@dataclass(slots=True)
class Tally:
    """How often a stage ran, and how long: its kernels with the binding of their tensors."""

    calls: int = 0
    nanoseconds: int = 0


@dataclass(slots=True)
class _Memory:
    """What an executor holds for one micro-batch: tensors by name, and its stages bound to them."""

    values: Values = field(default_factory=dict)
    bound: dict[tuple[Phase, int], BoundStage] = field(default_factory=dict)


class Executor:
    """Runs the stages of one pool.

    It holds tensors by micro-batch and name: activations until the phase is over, states until
    the micro-batch is. What it needs from other pools is put there by a transport.
    """

    def __init__(self, pool: str, plan: Plan, opener: Opener) -> None:
        """Open a session for each stage of the pool that gives anything to anybody.

        Raises:
            PlanError: A stage's subgraph is missing or cannot be loaded.
        """
        self.pool = pool
        self._states: Mapping[str, StateRef] = {state.past: state for state in plan.states}
        self._tokens = [feed.input for feed in plan.feeds if feed.kind == "token_ids"]
        self._sessions: dict[tuple[Phase, int], Session] = {}
        self._wiring: dict[Phase, Wiring] = {}
        self._batches: dict[int, _Memory] = {}
        self.tallies: dict[tuple[Phase, int], Tally] = {}
        for phase in _PHASES:
            for index, stage in enumerate(phase_of(plan, phase).stages):
                if stage.pool == pool and (stage.outputs or stage.states):
                    self._sessions[phase, index] = opener(stage)
                    self.tallies[phase, index] = Tally()

    def reset(self) -> None:
        """Begin to count anew, with no micro-batch."""
        self._batches.clear()
        self.tallies = {key: Tally() for key in self.tallies}

    def ports(self, phase: Phase, index: int) -> Ports:
        """What the subgraph of a stage reads and writes; nothing if it has no use."""
        session = self._sessions.get((phase, index))
        if session is None:
            return Ports({}, {})
        return Ports(
            {port.name: port.shape for port in session.get_inputs()},
            {port.name: port.shape for port in session.get_outputs()},
        )

    def connect(self, phase: Phase, wiring: Wiring) -> None:
        """Learn how the stages of a phase hang together."""
        self._wiring[phase] = wiring

    def begin(self, batch: int, pasts: Iterable[str], extents: Mapping[str, int]) -> None:
        """Start a micro-batch: make the empty states that this pool keeps.

        Args:
            batch: The micro-batch.
            pasts: The states.
            extents: What 'batch' and 'capacity' stand for in their shapes.
        """
        memory = self._batches[batch] = _Memory()
        for past in pasts:
            memory.values[past] = initial(self._states[past], extents)

    def receive(self, batch: int, values: Mapping[str, OrtValue]) -> None:
        """Take in values of a micro-batch."""
        memory = self._batches.get(batch)
        if memory is None:
            memory = self._batches[batch] = _Memory()
        memory.values.update(values)

    def values(self, batch: int, names: Sequence[str]) -> dict[str, OrtValue]:
        """Values of a micro-batch that are here."""
        held = self._batches[batch].values
        return {name: held[name] for name in names}

    def run(self, batch: int, phase: Phase, index: int) -> None:
        """Execute a stage for a micro-batch; its inputs are here.

        Raises:
            JobError: A token or a position is beyond what the model has tables for.
            PlanError: The subgraph fails.
        """
        if (phase, index) not in self._sessions:
            return
        start = perf_counter_ns()
        memory = self._batches[batch]
        stage = memory.bound.get((phase, index))
        try:
            if stage is None:
                stage = memory.bound[phase, index] = self._bind(memory, phase, index)
            stage.run(memory.values)
        except FAILURES as error:
            where = self._wiring[phase].stages[index].subgraph or f"{phase} stage {index}"
            raise run_error(error, where, self._token_ids(memory)) from error
        tally = self.tallies[phase, index]
        tally.calls += 1
        tally.nanoseconds += perf_counter_ns() - start

    def commit(self, batch: int, phase: Phase) -> None:
        """End a step: what was present becomes past."""
        values = self._batches[batch].values
        for past in self._wiring[phase].kept_by(self.pool):
            values[past] = values[self._states[past].present]

    def retain(self, batch: int, pasts: Collection[str]) -> None:
        """Forget everything of a micro-batch but these states, at the end of a phase."""
        held = self._batches.pop(batch, _Memory()).values
        self._batches[batch] = _Memory({past: held[past] for past in pasts})

    def end(self, batch: int) -> None:
        """Forget a micro-batch."""
        self._batches.pop(batch, None)

    def _bind(self, memory: _Memory, phase: Phase, index: int) -> BoundStage:
        wiring = self._wiring[phase]
        written = self.ports(phase, index).outputs
        states = [state for state in self._states.values() if state.present in written]
        aliased = {s.present: memory.values[s.past] for s in states if s.past in wiring.aliased}
        memory.values.update(aliased)
        presents = {state.present for state in states}
        steady = {n for n, shape in written.items() if n not in presents and wiring.is_steady(shape)}
        return BoundStage(self._sessions[phase, index], aliased, steady)

    def _token_ids(self, memory: _Memory) -> set[int]:
        held = [memory.values[name] for name in self._tokens if name in memory.values]
        return {int(token) for value in held for token in value.numpy().ravel()}
