"""Who waits looks as long as waits usually take, and sleeps through long ones."""

from disaggc.runtime.patience import MOST_NS, Patience

LEAST = 200_000


def waits(patience: Patience, ns: int, times: int) -> int:
    for _ in range(times):
        patience.waited(ns)
    return patience.ns


def test_waits_that_are_long_but_worth_it_are_looked_through() -> None:
    assert waits(Patience(LEAST), 1_000_000, 20) > 1_000_000


def test_short_waits_are_looked_for_at_least_as_long_as_asked() -> None:
    assert waits(Patience(LEAST), 1_000, 20) == LEAST


def test_long_waits_are_slept_through() -> None:
    assert waits(Patience(LEAST), 10 * MOST_NS, 20) == LEAST


def test_after_a_long_sleep_short_waits_are_soon_looked_through_again() -> None:
    patience = Patience(LEAST)
    waits(patience, 500 * MOST_NS, 5)
    assert waits(patience, 700_000, 8) > 700_000


def test_nobody_looks_where_cores_are_too_few() -> None:
    assert waits(Patience(0), 1_000_000, 20) == 0
