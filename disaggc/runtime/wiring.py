"""What goes where in one step of a phase, from what each stage's subgraph reads and writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from disaggc.errors import PlanError
from disaggc.plans import Feed, PhasePlan, Plan, Stage, StateRef

Phase = Literal["prefill", "decode"]


Shape = Sequence[int | str | None]

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Ports:
    """The inputs and outputs that a stage's subgraph has, with their declared shapes."""

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class Hop:
    """Values that go from one pool to another."""

    source: str
    target: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wiring:
    """How values flow in one step.

    Attributes:
        stages: In order of execution.
        feeds: Pool to the inputs that the driver gives it.
        keepers: State's past to the pool that keeps it.
        aliased: Pasts of the states that live in one buffer: the stage that writes them is the
            last that reads them.
        lent: States that a pool reads but does not keep; they go there before the step.
        hops: What goes to other pools after each stage; a value goes to a pool once.
        logits: The pool that computes the logits.
        steady: The exporter's symbols for extents that are the same in every decode step.
    """

    stages: tuple[Stage, ...]
    feeds: Mapping[str, tuple[str, ...]]
    keepers: Mapping[str, str]
    aliased: frozenset[str]
    lent: tuple[Hop, ...]
    hops: tuple[tuple[Hop, ...], ...]
    logits: str
    steady: frozenset[str]

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools that take part."""
        return tuple(self.feeds)

    def is_steady(self, shape: Shape) -> bool:
        """Whether a declared shape says that it is the same in every decode step."""
        return all(
            isinstance(dim, int) or (dim is not None and self.steady.issuperset(_IDENTIFIER.findall(dim)))
            for dim in shape
        )

    def source(self, index: int) -> str:
        """The pool that values come from: those of a stage, or, below 0, states that are lent."""
        return self.stages[index].pool if index >= 0 else self.lent[-1 - index].source

    def kept_by(self, pool: str) -> tuple[str, ...]:
        """The states that a pool keeps."""
        return tuple(past for past, keeper in self.keepers.items() if keeper == pool)


def phase_of(plan: Plan, phase: Phase) -> PhasePlan:
    """The stages of a phase.

    Raises:
        PlanError: The plan has none.
    """
    found = plan.prefill if phase == "prefill" else plan.decode
    if not found.stages:
        raise PlanError(f"The plan has no {phase} stages, so it cannot run. Compile it for both phases.")
    return found


def wire(plan: Plan, phase: Phase, ports: Sequence[Ports]) -> Wiring:
    """How values flow in one step of a phase.

    Args:
        plan: The plan.
        phase: Which phase of it.
        ports: Inputs and outputs of each of its stages.

    Raises:
        PlanError: A stage reads what nobody gives it, or no stage writes the logits.
    """
    stages = phase_of(plan, phase).stages
    given = {feed.input for feed in plan.feeds} | {state.past for state in plan.states}
    writer = _writers(ports)
    for name in (plan.logits, *(state.present for state in plan.states)):
        if name not in writer:
            raise PlanError(f"No {phase} stage writes '{name}'. Compile the plan again.")
    keepers = {state.past: stages[writer[state.present]].pool for state in plan.states}
    return Wiring(
        stages=stages,
        feeds=_feeds(stages, ports, plan.feeds),
        keepers=keepers,
        aliased=frozenset(s.past for s in plan.states if _is_aliased(s, ports, writer)),
        lent=_lent(stages, ports, keepers),
        hops=_hops(stages, ports, writer, given),
        logits=stages[writer[plan.logits]].pool,
        steady=frozenset(_steady_symbols(plan, ports)),
    )


def _writers(ports: Sequence[Ports]) -> dict[str, int]:
    writer: dict[str, int] = {}
    for index, port in enumerate(ports):
        for name in port.outputs:
            writer.setdefault(name, index)
    return writer


def _feeds(
    stages: Sequence[Stage], ports: Sequence[Ports], feeds: Sequence[Feed]
) -> dict[str, tuple[str, ...]]:
    read = [(stage.pool, set(port.inputs)) for stage, port in zip(stages, ports, strict=True)]
    return {
        pool: tuple(
            feed.input for feed in feeds if any(feed.input in names for p, names in read if p == pool)
        )
        for pool in dict.fromkeys(stage.pool for stage in stages)
    }


def _is_aliased(state: StateRef, ports: Sequence[Ports], writer: Mapping[str, int]) -> bool:
    """Whether nobody reads a state in place after the stage that writes it."""
    readers = [i for i, port in enumerate(ports) if state.past in port.inputs]
    return state.in_place and bool(readers) and readers[-1] == writer[state.present]


def _lent(stages: Sequence[Stage], ports: Sequence[Ports], keepers: Mapping[str, str]) -> tuple[Hop, ...]:
    routes: dict[tuple[str, str], dict[str, None]] = {}
    for stage, port in zip(stages, ports, strict=True):
        for name in port.inputs:
            if name in keepers and keepers[name] != stage.pool:
                routes.setdefault((keepers[name], stage.pool), {})[name] = None
    return tuple(Hop(source, target, tuple(names)) for (source, target), names in routes.items())


def _steady_symbols(plan: Plan, ports: Sequence[Ports]) -> Iterator[str]:
    """What stands where the plan says 'batch', 'new' or 'capacity'."""
    roles = {feed.input: feed.shape for feed in plan.feeds} | {s.past: s.shape for s in plan.states}
    for port in ports:
        for name in roles.keys() & port.inputs.keys():
            for role, symbol in zip(roles[name], port.inputs[name], strict=False):
                if role in ("batch", "new", "capacity") and isinstance(symbol, str):
                    yield symbol


def _hops(
    stages: Sequence[Stage], ports: Sequence[Ports], writer: Mapping[str, int], given: set[str]
) -> tuple[tuple[Hop, ...], ...]:
    routes: list[dict[str, dict[str, None]]] = [{} for _ in stages]
    for index, (stage, port) in enumerate(zip(stages, ports, strict=True)):
        for name in port.inputs:
            if name in given:
                continue
            origin = _origin(name, index, stage, writer)
            if stages[origin].pool != stage.pool:
                routes[origin].setdefault(stage.pool, {})[name] = None
    return tuple(
        tuple(Hop(stages[i].pool, pool, tuple(names)) for pool, names in route.items())
        for i, route in enumerate(routes)
    )


def _origin(name: str, index: int, stage: Stage, writer: Mapping[str, int]) -> int:
    origin = writer.get(name, index)
    if origin >= index:
        raise PlanError(
            f"Stage {index} ('{stage.subgraph}' on '{stage.pool}') reads '{name}', "
            f"which neither a feed nor an earlier stage gives it. Compile the plan again."
        )
    return origin
