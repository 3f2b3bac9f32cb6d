"""A bound session is executed without detours, whatever this onnxruntime has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from disaggc.runtime.engine import Binding, RunOptions, Session, executing
from disaggc.runtime.executor import Tally


class Noting:
    """Notes what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def run_with_iobinding(self, *given: object) -> None:
        self.calls.append(given)


def test_the_inner_session_is_given_run_options() -> None:
    inner, outer = Noting(), Noting()
    session = SimpleNamespace(_sess=inner, run_with_iobinding=outer.run_with_iobinding)
    execute = executing(cast(Session, session), cast(Binding, SimpleNamespace(_iobinding="bound")))
    execute()
    execute()
    assert outer.calls == []
    assert [bound for bound, _ in inner.calls] == ["bound", "bound"]
    assert all(isinstance(options, RunOptions) for _, options in inner.calls)


def test_a_session_without_one_is_called_itself() -> None:
    session, binding = Noting(), SimpleNamespace()
    executing(cast(Session, session), cast(Binding, binding))()
    assert session.calls == [(binding,)]


def test_runs_are_counted_from_starts_and_ends() -> None:
    tally = Tally(calls=2, nanoseconds=100)
    tally.count([10, 30, 60], [15, 37])  # the third has not ended
    assert (tally.calls, tally.nanoseconds) == (4, 112)
    tally.count([], [])
    assert (tally.calls, tally.nanoseconds) == (4, 112)
