"""Assignment problems small enough to try every assignment, drawn by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from disaggc.placement import Problem
from disaggc.placement.problem import Flow, Row

COEFFICIENTS = st.integers(0, 40)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Two or three places, up to six items, rows of every kind; some have no solution."""
    places = draw(st.integers(2, 3))
    items = draw(st.integers(1, 6))
    allowed = draw(st.lists(_subset(places), min_size=items, max_size=items))
    flows = tuple(draw(st.lists(_flow(items), max_size=3)))
    groups = tuple(draw(st.lists(_subset(items), max_size=3)))
    count = draw(st.integers(1, 4))
    rows = tuple(draw(_row(f"row {k}", places, items, len(flows), len(groups))) for k in range(count))
    hard = tuple(row.name for row in rows if row.limit is not None)
    limit = draw(st.none() | st.integers(0, 200))
    return Problem(places, tuple(allowed), flows, groups, rows, limit, hard[:2])


def _subset(size: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.integers(0, size - 1), min_size=1).map(lambda found: tuple(sorted(found)))


def _flow(items: int) -> st.SearchStrategy[Flow]:
    return st.builds(Flow, st.integers(0, items - 1), _subset(items))


def _row(name: str, places: int, items: int, flows: int, groups: int) -> st.SearchStrategy[Row]:
    place = st.integers(0, places - 1)
    at = st.dictionaries(st.tuples(st.integers(0, items - 1), place), COEFFICIENTS, max_size=8)
    crossings = st.tuples(st.integers(0, max(0, flows - 1)), place, place)
    cross = st.dictionaries(crossings, COEFFICIENTS, max_size=4 if flows else 0)
    residents = st.tuples(st.integers(0, max(0, groups - 1)), place)
    resident = st.dictionaries(residents, COEFFICIENTS, max_size=4 if groups else 0)
    limit = st.none() | st.integers(0, 120)
    return st.builds(Row, st.just(name), at, cross, resident, st.integers(0, 20), limit)
