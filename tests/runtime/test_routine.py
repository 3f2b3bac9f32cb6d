"""Steps by routine do what steps the long way do, and are counted like them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from skeletons import SMALL

from disaggc.plans import Plan
from disaggc.runtime import Execution, RunResult, deploy
from disaggc.runtime.failures import FAILURES
from disaggc.runtime.in_process import InProcess

from .fleets import cut

PROMPTS = [(7, 3, 11, 5), (2, 13, 4, 9)]
TOKENS = 24


def decoded(plan: Plan, folder: Path, path: Path, traced: bool) -> RunResult:
    """A run; one that is traced takes every step the long way."""
    here = Execution(micro_batch=2, traced=traced)
    with deploy(plan, folder, path.parent, 1, here) as deployment:
        return deployment.generate(PROMPTS, TOKENS)


def counted(result: RunResult) -> tuple[object, ...]:
    return result.tokens, result.links, [(stage.index, stage.calls) for stage in result.stages]


def steps_by_routine(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that executors in one process take by routine from now on."""
    taken: list[int] = []
    repeat = InProcess._repeat

    def counting(self: InProcess, group: Any) -> None:
        taken.append(group.step)
        repeat(self, group)

    monkeypatch.setattr(InProcess, "_repeat", counting)
    return taken


@pytest.mark.parametrize("name", SMALL)
def test_steps_by_routine_are_as_steps_the_long_way(
    name: str, runnable: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runnable(name)
    plan = cut(path, tmp_path / "plan")
    long = counted(decoded(plan, tmp_path / "plan", path, traced=True))
    taken = steps_by_routine(monkeypatch)
    assert counted(decoded(plan, tmp_path / "plan", path, traced=False)) == long
    if all(state.in_place for state in plan.states):
        assert len(taken) >= TOKENS - 6


def test_what_a_micro_batch_found_out_holds_for_the_next(
    runnable: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runnable("qwen3_moe.gqa_moe")
    plan = cut(path, tmp_path / "plan")
    taken = steps_by_routine(monkeypatch)
    with deploy(plan, tmp_path / "plan", path.parent, 1, Execution(micro_batch=2)) as deployment:
        results = [deployment.generate(prompts, TOKENS) for prompts in (PROMPTS, PROMPTS[:1], PROMPTS)]
    decoding = TOKENS - 1  # prefill gives the first token
    assert taken == [*range(3, decoding), *range(2, decoding), *range(2, decoding)]
    assert counted(results[0]) == counted(results[2])
    assert results[1].tokens == results[0].tokens[:1]


def test_a_stage_that_fails_by_routine_is_run_the_long_way_and_all_are_counted_once(
    runnable: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runnable("qwen3_moe.gqa_moe")
    plan = cut(path, tmp_path / "plan")
    long = counted(decoded(plan, tmp_path / "plan", path, traced=True))
    repeat = InProcess._repeat
    failed: list[int] = []

    def failing(self: InProcess, group: Any) -> None:
        def fail() -> None:
            failed.append(group.step)
            raise FAILURES[0]("a shape that moved")

        if len(group.stamps) >= 3 * (len(group.routine) + 1):
            group.routine[1].execute = fail
        repeat(self, group)

    monkeypatch.setattr(InProcess, "_repeat", failing)
    tokens, _, calls = counted(decoded(plan, tmp_path / "plan", path, traced=False))
    assert failed
    assert (tokens, calls) == (long[0], long[2])
