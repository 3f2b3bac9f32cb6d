"""Executors that die or hang at any moment: they are replaced, and requests end with the same tokens."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from disaggc.runtime import Request, RunResult, processes, run
from disaggc.runtime.messages import Address
from disaggc.runtime.processes import Processes
from disaggc.runtime.transport import Lost

from .fleets import all_gone, cut, fleet, on_processes
from .test_processes import TINY

REQUESTS = [Request((5, 7, 11), 120), Request((1, 2, 3, 4, 5, 6), 75), Request((9, 8, 7), 100)]


def expected(folder: Path) -> RunResult:
    plan = cut(TINY, folder, "prefill")
    prompts = [request.prompt for request in REQUESTS]
    longest = max(request.max_new_tokens for request in REQUESTS)
    return run(plan, folder, TINY.parent, prompts, longest)


class Saboteur:
    """Does harm to an executor some time after a run has begun."""

    def __init__(self, harm: Callable[[], None], delay_s: float) -> None:
        self._thread = threading.Timer(delay_s, harm)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()


@pytest.mark.parametrize(("number", "rounds"), [(signal.SIGKILL, 4), (signal.SIGSTOP, 1)])
def test_executors_lost_at_random_moments_change_no_token(
    tmp_path: Path, number: signal.Signals, rounds: int
) -> None:
    draw = random.Random(int(number))
    whole = expected(tmp_path)
    plan = cut(TINY, tmp_path, "prefill")
    hit = []
    with fleet(plan, tmp_path, TINY, on_processes(deadline_s=1.5)) as (deployment, processes):
        for _ in range(rounds):
            address = draw.choice([*processes.pids])

            def harm(victim: Address = address) -> None:
                hit.append(processes.pids[victim])
                os.kill(processes.pids[victim], number)

            with Saboteur(harm, draw.uniform(0.0, 0.1)):
                found = deployment.serve(REQUESTS)
            assert not found.failures
            for request, tokens, all_tokens in zip(REQUESTS, found.tokens, whole.tokens, strict=True):
                assert tokens == all_tokens[: request.max_new_tokens]
        deployment.serve(REQUESTS)
    assert all_gone(hit)


def test_an_executor_that_dies_while_another_is_replaced_is_replaced_too(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    prompts = [[5, 7, 11], [1, 2, 3]]
    whole = run(plan, tmp_path, TINY.parent, prompts, 300).tokens
    with fleet(plan, tmp_path, TINY, on_processes()) as (deployment, processes):
        first = dict(processes.pids)
        patience = time.monotonic() + 30

        def harm() -> None:
            for pid in first.values():
                os.kill(pid, signal.SIGKILL)
            while processes.pids[Address("experts", 0)] == first[Address("experts", 0)]:
                assert time.monotonic() < patience, "nobody was replaced"
                time.sleep(1e-3)
            os.kill(processes.pids[Address("experts", 0)], signal.SIGKILL)

        with Saboteur(harm, 0.0):
            found = deployment.generate(prompts, 300)
        assert found.tokens == whole
        assert set(first.values()).isdisjoint(processes.pids.values())


def test_executors_that_had_nothing_to_do_for_long_are_not_taken_to_hang(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    with fleet(plan, tmp_path, TINY, on_processes(deadline_s=3.0)) as (deployment, processes):
        before = dict(processes.pids)
        deployment.generate([[1, 2, 3]], 3)
        time.sleep(3.5)
        assert deployment.generate([[1, 2, 3]], 3).restarts == 0
        assert processes.pids == before


@pytest.mark.parametrize(("look_s", "sleeps"), [(1e6, True), (0.01, False)])
def test_an_executor_that_dies_is_noticed_as_it_hangs_up_or_when_looked_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_s: float, sleeps: bool
) -> None:
    """A driver that never sleeps, because results pour in, hears nobody hang up; it looks now and then."""
    plan = cut(TINY, tmp_path)
    with fleet(plan, tmp_path, TINY, on_processes(deadline_s=1e6)) as (_, executors):
        executors.wait(0.1)
        monkeypatch.setattr(processes, "_LOOK_S", look_s)
        executors.wait(0.1)
        if not sleeps:
            monkeypatch.setattr(Processes, "_sleep", lambda _self, _seconds: None)
        victim = next(iter(executors.pids))
        os.kill(executors.pids[victim], signal.SIGKILL)
        (lost,) = executors.wait(60)
        assert isinstance(lost, Lost)
        assert (lost.addresses, lost.reason) == ((victim,), "it was ended by signal 9")


def test_an_idle_executor_that_dies_is_replaced_by_the_next_run(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    whole = run(plan, tmp_path, TINY.parent, [[1, 2, 3]], 10).tokens
    with fleet(plan, tmp_path, TINY, on_processes()) as (deployment, processes):
        for pid in processes.pids.values():
            os.kill(pid, signal.SIGKILL)
        found = deployment.generate([[1, 2, 3]], 10)
    assert found.tokens == whole
    assert found.restarts == 2
