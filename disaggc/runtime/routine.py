"""Stages whose tensors all stay where they are: from some step on they are a list of calls.

Looking up, comparing and binding tensors takes longer than a small stage. After a few steps of decode
nearly all of them lie where they lay in the step before (caches in place, outputs of unchanged shape),
so that nothing is left to do but execute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from disaggc.runtime.engine import OrtValue
from disaggc.runtime.executor import Executor, Tally
from disaggc.runtime.wiring import Phase

TRIES = 4
"""Steps after which tensors that still change will go on doing so."""


@dataclass(slots=True)
class Habit:
    """One stage that finds all its tensors where they were.

    Attributes:
        execute: Executes it.
        tally: Where its runs are counted.
        stage: Its index in the phase.
        sends: What sends its values on, given the step.
        uncounted: Runs whose messages are not counted yet.
    """

    execute: Callable[[], None]
    tally: Tally
    stage: int
    sends: tuple[Callable[[int], None], ...] = ()
    uncounted: int = 0


def moved(before: Mapping[str, OrtValue], after: Mapping[str, OrtValue]) -> set[str]:
    """The names that came to mean other tensors."""
    return {name for name, value in after.items() if before.get(name) is not value}


def habit(
    executor: Executor, group: int, phase: Phase, index: int, unsteady: AbstractSet[str]
) -> Habit | None:
    """A stage of a micro-batch by routine; None if it does not run, or any of its tensors moves.

    Args:
        executor: Whose stage it is.
        group: The micro-batch.
        phase: The phase.
        index: The stage.
        unsteady: Names that came to mean other tensors in the last step.
    """
    execute = executor.settled(group, phase, index)
    if execute is None or not unsteady.isdisjoint(executor.ports(phase, index).inputs):
        return None
    return Habit(execute, executor.tallies[phase, index], index)
