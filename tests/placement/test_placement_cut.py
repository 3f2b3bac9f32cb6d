import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from ortools.sat.python import cp_model
from problems import problems

from disaggc.placement import Assignment, Problem, Verdict, cut, evaluate, solve
from disaggc.placement.check import brute_force
from disaggc.placement.cut import SolverError, canonical
from disaggc.placement.problem import Flow, Row

LINE = Problem(
    places=2,
    allowed=((0,), (0, 1)),
    flows=(Flow(0, (1,)),),
    groups=(),
    rows=(Row("time", at={(1, 0): 9, (1, 1): 2}, cross={(0, 0, 1): 3}),),
)
"""Item 1 is slow beside item 0; elsewhere it is fast and pays a crossing: 9 against 5."""


@settings(max_examples=40)
@given(problems())
def test_the_solver_finds_what_trying_everything_finds(problem: Problem) -> None:
    solution, best = solve(problem), brute_force(problem)
    assert (solution is None) == (best is None)
    if solution is not None and best is not None:
        assert solution.objective == solution.bound == best[0]
        assert evaluate(problem, solution.assignment).feasible


@settings(max_examples=40)
@given(problems())
def test_the_same_problem_is_solved_alike_twice(problem: Problem) -> None:
    assert solve(problem) == solve(problem)


def test_a_problem_that_presolve_gets_wrong_is_solved_right() -> None:
    """See the file: OR-Tools 9.15 with its presolve proves an optimum that is none."""
    problem = _read(Path(__file__).parent / "presolve.json")
    solution, best = solve(problem), brute_force(problem)
    assert solution is not None
    assert best is not None
    assert solution.objective == best[0] == 9_510_228_757


def _read(path: Path) -> Problem:
    told = json.loads(path.read_text())
    return Problem(
        places=told["places"],
        allowed=tuple(tuple(places) for places in told["allowed"]),
        flows=tuple(Flow(source, tuple(readers)) for source, readers in told["flows"]),
        groups=tuple(tuple(items) for items in told["groups"]),
        rows=tuple(_row(row) for row in told["rows"]),
        limit=told["limit"],
        tie_breaks=tuple(told["tie_breaks"]),
    )


def _row(told: dict[str, Any]) -> Row:
    terms = {kind: {tuple(key): c for *key, c in told[kind]} for kind in ("at", "cross", "resident")}
    return Row(told["name"], **terms, constant=told["constant"], limit=told["limit"])


def _rank(problem: Problem, assignment: Assignment) -> tuple[int, ...]:
    verdict = evaluate(problem, assignment)
    return (*(verdict.rows[name] for name in problem.tie_breaks), sum(assignment))


@settings(max_examples=40)
@given(problems())
def test_the_canonical_answer_comes_first_by_the_tie_breaks(problem: Problem) -> None:
    solution = solve(problem)
    assume(solution is not None)
    assert solution is not None
    ceiling = solution.objective + 10 if problem.limit is None else problem.limit
    verdicts = {a: evaluate(problem, a) for a in itertools.product(*problem.allowed)}
    held = [a for a, v in verdicts.items() if v.feasible and v.objective <= ceiling]
    chosen = canonical(problem, ceiling, solution.assignment)
    assert chosen in held
    assert _rank(problem, chosen) == min(_rank(problem, a) for a in held)


@settings(max_examples=40)
@given(problems())
def test_the_canonical_answer_does_not_depend_on_the_answer_it_starts_from(problem: Problem) -> None:
    solution = solve(problem)
    assume(solution is not None)
    assert solution is not None
    worst = max(itertools.product(*problem.allowed), key=lambda a: evaluate(problem, a).objective)
    ceiling = solution.objective
    assert canonical(problem, ceiling, solution.assignment) == canonical(problem, ceiling, worst)


def test_a_crossing_is_paid_where_it_saves_more_than_it_costs() -> None:
    solution = solve(LINE)
    assert solution is not None
    assert (solution.assignment, solution.objective) == ((0, 1), 5)


def test_an_impossible_limit_has_no_solution() -> None:
    row = Row("memory", at={(0, 0): 5}, limit=4)
    assert solve(Problem(2, ((0,), (0, 1)), (), (), (row,))) is None


def test_an_item_that_may_go_nowhere_has_no_solution() -> None:
    assert solve(Problem(2, ((0,), ()), (), (), (Row("time"),))) is None


def _lying(add: int) -> Callable[[Problem, Assignment], Verdict]:
    def evaluate_otherwise(problem: Problem, assignment: Assignment) -> Verdict:
        verdict = evaluate(problem, assignment)
        return Verdict(verdict.objective + add, verdict.rows, verdict.broken, verdict.misplaced)

    return evaluate_otherwise


def test_an_answer_that_the_checker_prices_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "evaluate", _lying(1))
    with pytest.raises(SolverError, match=r"CP-SAT says 5 and the checker 6 .*Please report the job\."):
        solve(LINE)


def test_a_solver_that_gives_up_is_an_error_and_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cp_model.CpSolver, "solve", lambda *_: cp_model.UNKNOWN)
    with pytest.raises(SolverError, match=r"CP-SAT ended with UNKNOWN\. Please report the job\."):
        solve(LINE)
