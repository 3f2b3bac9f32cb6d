"""What all stages read and write, exchanged between executors, and how values flow because of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from disaggc.plans import Plan
from disaggc.runtime.commands import StagePorts
from disaggc.runtime.executor import PHASES, Executor
from disaggc.runtime.wiring import Phase, Ports, Wiring, phase_of, wire


def ports_of(executor: Executor) -> Iterator[StagePorts]:
    """What an executor's stages read and write."""
    for phase, index in executor.tallies:
        ports = executor.ports(phase, index)
        yield StagePorts(phase, index, _plain(ports.inputs), _plain(ports.outputs))


def wirings(plan: Plan, stages: Iterable[StagePorts]) -> dict[Phase, Wiring]:
    """How values flow in both phases.

    Raises:
        PlanError: A stage reads what nobody gives it, or no stage writes the logits.
    """
    known = {(stage.phase, stage.index): Ports(stage.inputs, stage.outputs) for stage in stages}
    found: dict[Phase, Wiring] = {}
    for phase in PHASES:
        count = len(phase_of(plan, phase).stages)
        found[phase] = wire(plan, phase, [known.get((phase, i), Ports({}, {})) for i in range(count)])
    return found


def _plain(ports: Mapping[str, Sequence[int | str | None]]) -> dict[str, tuple[int | str | None, ...]]:
    return {name: tuple(shape) for name, shape in ports.items()}
