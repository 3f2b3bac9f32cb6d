from disaggc.placement import Problem, evaluate
from disaggc.placement.check import brute_force
from disaggc.placement.problem import Flow, Row


def _value(row: Row, assignment: tuple[int, ...], flow: Flow | None = None) -> int:
    allowed = tuple((0, 1, 2) for _ in assignment)
    problem = Problem(3, allowed, (flow,) if flow else (), ((0, 1),), (row,))
    return evaluate(problem, assignment).rows[row.name]


def test_a_row_sums_its_constant_and_the_items_where_they_are() -> None:
    row = Row("row", at={(0, 0): 3, (0, 1): 100, (1, 2): 4}, constant=7)
    assert _value(row, (0, 2)) == 7 + 3 + 4


def test_a_flow_is_sent_once_to_a_place_with_two_readers() -> None:
    row = Row("row", cross={(0, 0, 1): 5})
    assert _value(row, (0, 1, 1), Flow(0, (1, 2))) == 5


def test_a_flow_is_sent_to_each_other_place() -> None:
    row = Row("row", cross={(0, 0, 1): 5, (0, 0, 2): 6})
    assert _value(row, (0, 1, 2), Flow(0, (1, 2))) == 11


def test_a_flow_has_a_direction() -> None:
    row = Row("row", cross={(0, 0, 1): 5})
    assert _value(row, (1, 0), Flow(0, (1,))) == 0


def test_a_group_is_resident_once_however_many_of_its_items_are_there() -> None:
    row = Row("row", resident={(0, 0): 8})
    assert [_value(row, a) for a in ((0, 0), (0, 1), (1, 1))] == [8, 8, 0]


def test_the_objective_is_the_largest_row_without_a_limit() -> None:
    rows = (Row("path", constant=4), Row("busy", constant=6), Row("memory", constant=50, limit=60))
    verdict = evaluate(Problem(1, ((0,),), (), (), rows), (0,))
    assert (verdict.objective, verdict.feasible) == (6, True)


def test_a_broken_limit_is_named_with_its_excess() -> None:
    rows = (Row("memory", constant=50, limit=48), Row("path", constant=4))
    verdict = evaluate(Problem(1, ((0,),), (), (), rows), (0,))
    assert (verdict.broken, verdict.feasible) == ({"memory": 2}, False)


def test_an_objective_over_its_own_limit_is_named_t() -> None:
    verdict = evaluate(Problem(1, ((0,),), (), (), (Row("path", constant=9),), limit=5), (0,))
    assert (verdict.broken, verdict.feasible) == ({"T": 4}, False)


def test_an_item_where_it_may_not_be_is_misplaced() -> None:
    verdict = evaluate(Problem(2, ((0, 1), (0,)), (), (), ()), (1, 1))
    assert (verdict.misplaced, verdict.feasible) == ((1,), False)


def test_trying_everything_finds_nothing_where_nothing_is_feasible() -> None:
    row = Row("memory", constant=2, limit=1)
    assert brute_force(Problem(2, ((0, 1),), (), (), (row,))) is None
