"""Finds out which stages of a micro-batch are routine (see ``routine``), and runs them so."""

from __future__ import annotations

from time import perf_counter_ns

from disaggc.runtime.executor import Executor
from disaggc.runtime.failures import FAILURES
from disaggc.runtime.group import Group
from disaggc.runtime.posting import Post
from disaggc.runtime.program import Turn
from disaggc.runtime.routine import Habit, habit


class Practice:
    """That of one executor."""

    def __init__(self, executor: Executor, post: Post) -> None:
        self._executor = executor
        self._post = post

    def learn(self, group: Group) -> None:
        """After a step: whatever found its tensors where they were is routine from now on."""
        if group.learn(self._executor.held(group.number)):
            self._post.count_repeated(group)
            group.routine = tuple(self._habit(group, turn) for turn in group.program.turns)
            if None not in group.routine:
                group.tries = 0

    def unlearn(self, group: Group) -> None:
        """Something moved after all."""
        self._post.count_repeated(group)
        group.unlearn()

    def repeat(self, group: Group, one: Habit) -> bool:
        """Run a stage by routine; False if that fails: as usual then, which mends or explains it."""
        start = perf_counter_ns()
        try:
            one.execute()
        except FAILURES:
            self.unlearn(group)
            return False
        tally = one.tally
        tally.calls += 1
        tally.nanoseconds += perf_counter_ns() - start
        for send in one.sends:
            send(group.step)
        one.uncounted += 1
        return True

    def _habit(self, group: Group, turn: Turn) -> Habit | None:
        found = habit(self._executor, group.number, group.program.phase, turn.stage, group.unsteady)
        if found is None or any(not group.unsteady.isdisjoint(hop.names) for hop in turn.hops):
            return None
        found.sends = tuple(self._post.again(group, turn.stage, hop) for hop in turn.hops)
        return found
