"""Solves one assignment problem exactly, with CP-SAT; the only module that knows the solver.

Booleans say which item is at which place, which flow crosses from where to where, and which group is
resident where; crossings and residents are bounded from below only, which is exact because every
coefficient is non-negative. One worker and a fixed seed: the same problem gives the same answer.

Presolve is off: that of OR-Tools 9.15 certifies wrong optima (google/or-tools#5293), of one of our
problems, too (tests/placement/presolve.json). Problems are small enough to do without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ortools.sat.python import cp_model

from disaggc.errors import DisaggcError
from disaggc.placement.check import evaluate
from disaggc.placement.problem import Assignment, Problem, Row

DETERMINISTIC_LIMIT = 60.0
"""CP-SAT's deterministic seconds for one problem; dozens of segments take hundredths."""


class SolverError(DisaggcError):
    """The solver stopped without an answer, or the checker disagrees with it: a fault of ours."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A proven optimum.

    Attributes:
        assignment: The place of each item.
        objective: T, as the checker computes it.
        bound: The solver's proven bound on T; equal to ``objective``.
    """

    assignment: Assignment
    objective: int
    bound: int


def solve(problem: Problem) -> Solution | None:
    """An assignment of least T.

    Returns:
        The optimum, agreed on by ``check.evaluate``; None if no assignment is feasible.

    Raises:
        SolverError: The solver gave up, or its answer does not check.
    """
    first = _Model(problem)
    answer = first.minimise(first.largest)
    if answer is None:
        return None
    verdict = evaluate(problem, answer)
    if not verdict.feasible or verdict.objective != first.value:
        raise SolverError(
            f"CP-SAT says {first.value} and the checker {verdict.objective} (broken: {verdict.broken}). "
            f"Please report the job."
        )
    return Solution(answer, verdict.objective, first.value)


def canonical(problem: Problem, ceiling: int, answer: Assignment) -> Assignment:
    """Among the assignments with T of ``ceiling`` or less the one that comes first by ``problem.tie_breaks``.

    What still ties is decided by place order, so that plans are reproducible whatever order
    configurations were tried in.
    """
    held = replace(problem, limit=ceiling)
    rows = {row.name: row for row in problem.rows}
    for name in problem.tie_breaks:
        model = _Model(held)
        answer = model.minimise(model.sum_of(rows[name])) or answer
        held = replace(held, rows=(*held.rows, replace(rows[name], name=f"tie.{name}", limit=model.value)))
    model = _Model(held)
    places = sum(place * model.at[i, place] for i, options in enumerate(problem.allowed) for place in options)
    return model.minimise(places) or answer


class _Model:
    """One problem as CP-SAT variables."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.model = cp_model.CpModel()
        self.value = 0
        self.at = {
            (i, p): self.model.new_bool_var(f"at_{i}_{p}")
            for i, options in enumerate(problem.allowed)
            for p in options
        }
        for i, options in enumerate(problem.allowed):
            self.model.add_exactly_one(self.at[i, p] for p in options)
        self.crossing: dict[tuple[int, int, int], Any] = {}
        self.residing: dict[tuple[int, int], Any] = {}
        ceiling = max((_most(row) for row in problem.rows if row.limit is None), default=0)
        if problem.limit is not None:
            ceiling = min(ceiling, problem.limit)
        self.largest = self.model.new_int_var(0, max(0, ceiling), "T")
        for row in problem.rows:
            if row.limit is None:
                self.model.add(self.sum_of(row) <= self.largest)
            elif row.limit < _most(row):
                self.model.add(self.sum_of(row) <= row.limit)

    def sum_of(self, row: Row) -> Any:
        """The row as a linear expression."""
        terms = [c * self.at[key] for key, c in row.at.items() if c and key in self.at]
        terms += [c * self._cross(*key) for key, c in row.cross.items() if c]
        terms += [c * self._reside(*key) for key, c in row.resident.items() if c]
        return sum(terms) + row.constant

    def minimise(self, expression: Any) -> Assignment | None:
        """The assignment of least ``expression``; ``self.value`` is that least value."""
        self.model.minimize(expression)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 1
        solver.parameters.max_deterministic_time = DETERMINISTIC_LIMIT
        solver.parameters.cp_model_presolve = False
        # Its own handler would stay behind and kill the process at the next Ctrl-C, folders and all.
        solver.parameters.catch_sigint_signal = False
        status = solver.solve(self.model)
        if status == cp_model.INFEASIBLE:
            return None
        if status != cp_model.OPTIMAL:
            raise SolverError(f"CP-SAT ended with {solver.status_name(status)}. Please report the job.")
        self.value = round(solver.objective_value)
        return tuple(
            next(p for p in options if solver.boolean_value(self.at[i, p]))
            for i, options in enumerate(self.problem.allowed)
        )

    def _cross(self, flow: int, source: int, target: int) -> Any:
        key = (flow, source, target)
        if key not in self.crossing:
            self.crossing[key] = crossing = self.model.new_bool_var(f"cross_{flow}_{source}_{target}")
            sends = self.at.get((self.problem.flows[flow].source, source), 0)
            for reader in self.problem.flows[flow].readers:
                self.model.add(crossing >= sends + self.at.get((reader, target), 0) - 1)
        return self.crossing[key]

    def _reside(self, group: int, place: int) -> Any:
        key = (group, place)
        if key not in self.residing:
            self.residing[key] = residing = self.model.new_bool_var(f"reside_{group}_{place}")
            for item in self.problem.groups[group]:
                self.model.add(residing >= self.at.get((item, place), 0))
        return self.residing[key]


def _most(row: Row) -> int:
    """More than a row comes to under any assignment."""
    return row.constant + sum(row.at.values()) + sum(row.cross.values()) + sum(row.resident.values())
