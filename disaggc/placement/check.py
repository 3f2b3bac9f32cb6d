"""Re-prices an assignment by walking the problem; knows no solver.

Whatever the solver says is believed only if this agrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from disaggc.placement.problem import Assignment, Problem, Row


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an assignment comes to.

    Attributes:
        objective: T, the largest soft row.
        rows: Every row's value by name.
        broken: Hard rows over their limit, and 'T' if it is over its own, with the excess.
        misplaced: Items at places they may not go to.
    """

    objective: int
    rows: dict[str, int]
    broken: dict[str, int]
    misplaced: tuple[int, ...]

    @property
    def feasible(self) -> bool:
        """Whether every limit holds."""
        return not self.broken and not self.misplaced


def evaluate(problem: Problem, assignment: Assignment) -> Verdict:
    """The value of every row under ``assignment``, and which limits it breaks."""
    values = {row.name: row_value(problem, row, assignment) for row in problem.rows}
    objective = max((values[r.name] for r in problem.rows if r.limit is None), default=0)
    broken = {
        row.name: values[row.name] - row.limit
        for row in problem.rows
        if row.limit is not None and values[row.name] > row.limit
    }
    if problem.limit is not None and objective > problem.limit:
        broken["T"] = objective - problem.limit
    misplaced = tuple(i for i, place in enumerate(assignment) if place not in problem.allowed[i])
    return Verdict(objective, values, broken, misplaced)


def row_value(problem: Problem, row: Row, assignment: Assignment) -> int:
    """One row under an assignment."""
    at = sum(c for (item, place), c in row.at.items() if assignment[item] == place)
    cross = sum(
        c
        for (flow, source, target), c in row.cross.items()
        if assignment[problem.flows[flow].source] == source
        and any(assignment[reader] == target for reader in problem.flows[flow].readers)
    )
    resident = sum(
        c
        for (group, place), c in row.resident.items()
        if any(assignment[item] == place for item in problem.groups[group])
    )
    return row.constant + at + cross + resident


def brute_force(problem: Problem) -> tuple[int, Assignment] | None:
    """The best feasible assignment by trying all of them; None if none is feasible."""
    best: tuple[int, Assignment] | None = None
    for assignment in _assignments(problem):
        verdict = evaluate(problem, assignment)
        if verdict.feasible and (best is None or verdict.objective < best[0]):
            best = (verdict.objective, assignment)
    return best


def _assignments(problem: Problem) -> Iterator[Assignment]:
    return product(*problem.allowed)
