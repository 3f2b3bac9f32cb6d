import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from disaggc.ir import Expr, Point, parse_dim, windowed

NAMES = ("a", "b", "c")
VALUES = st.fixed_dictionaries({name: st.integers(1, 50) for name in NAMES})


def _polynomials() -> st.SearchStrategy[str]:
    leaves = st.one_of(st.integers(0, 9).map(str), st.sampled_from(NAMES))
    return st.recursive(
        leaves,
        lambda part: st.builds("({} {} {})".format, part, st.sampled_from("+-*"), part),
        max_leaves=8,
    )


def _python(text: str, values: dict[str, int]) -> float:
    return float(eval(text, {"floor": math.floor}, dict(values)))  # noqa: S307  # our own arithmetic, as the oracle


@given(_polynomials(), VALUES)
def test_an_expression_is_worth_what_python_says(text: str, values: dict[str, int]) -> None:
    assert float(parse_dim(text).evaluate(values)) == pytest.approx(_python(text, values))


@given(_polynomials(), _polynomials())
def test_multiplication_and_addition_commute_and_distribute(left: str, right: str) -> None:
    a, b = parse_dim(left), parse_dim(right)
    assert (a + b, a * b) == (b + a, b * a)
    assert a * (b + 3) == a * b + a * 3
    assert a - a == Expr()


@given(_polynomials())
def test_an_expressions_text_is_the_expression(text: str) -> None:
    expr = parse_dim(text)
    assert parse_dim(str(expr)) == expr


@given(st.floats(-1e9, 1e9, allow_nan=False), st.integers(1, 4))
def test_text_keeps_every_digit_and_every_power(coefficient: float, power: int) -> None:
    expr = Expr.product([Expr.of("batch")] * power) * coefficient
    assert parse_dim(str(expr)) == expr


@given(_polynomials(), _polynomials())
def test_a_product_is_divisible_by_its_factors(left: str, right: str) -> None:
    a, b = parse_dim(left), parse_dim(right)
    assume(b.terms)
    assert (a * b) / b == a


@given(_polynomials(), st.integers(1, 97), VALUES)
def test_every_expression_is_divisible_by_a_number(text: str, divisor: int, values: dict[str, int]) -> None:
    quotient = parse_dim(text) / divisor
    assert float(quotient.evaluate(values)) == pytest.approx(_python(text, values) / divisor)


@pytest.mark.parametrize(
    ("dividend", "divisor"), [("a", "b"), ("a + 1", "a"), ("a*b + c", "b"), ("1", "a + b")]
)
def test_a_division_that_leaves_a_remainder_is_refused(dividend: str, divisor: str) -> None:
    with pytest.raises(ValueError, match="leaves a remainder"):
        parse_dim(dividend) / parse_dim(divisor)


def test_division_by_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="division of a by zero"):
        Expr.of("a") / 0


@given(_polynomials(), _polynomials(), VALUES)
def test_substitution_is_evaluation_of_the_inner_first(text: str, inner: str, values: dict[str, int]) -> None:
    outer = parse_dim(text).substitute({"a": parse_dim(inner)})
    bound: dict[str, Any] = values | {"a": parse_dim(inner).evaluate(values)}
    assert float(outer.evaluate(values)) == pytest.approx(float(parse_dim(text).evaluate(bound)))


def test_substitution_is_simultaneous() -> None:
    swapped = parse_dim("a + 2*b").substitute({"a": Expr.of("b"), "b": Expr.of("a")})
    assert swapped == parse_dim("b + 2*a")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("4", "2 + 2"),
        ("seq", "seq"),
        ("past + seq", "seq + past"),
        ("2*batch*seq", "batch*2*seq"),
        ("s0**2", "s0*s0"),
        ("(past+seq)//1", "past + seq"),
        ("floor(128*batch*(past + seq)/(32*past + 32*seq))", "4*batch"),
        ("floor(8*b*s/(2*s))", "4*b"),
        ("-(-batch)", "batch"),
        ("4*Max(1, s0)", "2*Max(1, s0) + 2*Max(1,s0)"),
    ],
)
def test_exporters_spellings_mean_one_thing(text: str, same: str) -> None:
    assert parse_dim(text) == parse_dim(same)


@pytest.mark.parametrize(
    "text",
    [
        "?val_1.0",
        "a b",
        "1 if a else 2",
        "lambda",
        "floor(a/b)",
        "a[0]",
        "",
        "(" * 5000,
        "-" * 100_000 + "a",
        "True",
    ],
    ids=lambda text: text[:10],
)
def test_a_text_that_is_no_polynomial_is_one_symbol(text: str) -> None:
    assert parse_dim(text) == Expr.of(text)


def test_no_text_is_ever_executed() -> None:
    text = "__import__('os').abort()"
    assert len(parse_dim(text).symbols) == 1


def test_a_constant_knows_its_value_and_a_symbol_has_none() -> None:
    assert (Expr().constant, Expr.of(3).constant, Expr.of("a").constant) == (0, 3, None)
    assert (Expr.of("a") + 1).constant is None


def test_evaluation_needs_every_symbol() -> None:
    with pytest.raises(KeyError, match="b"):
        parse_dim("a + b").evaluate({"a": 1})


def test_a_point_knows_the_workload_and_takes_unknown_extents_for_one() -> None:
    point = Point(np.asarray([1.0, 2.0]), 3, 10)
    assert parse_dim("batch*new + cached").evaluate(point).tolist() == [13.0, 16.0]
    assert float(parse_dim("total").evaluate(point)) == 13
    assert float(parse_dim("7*mystery").evaluate(point)) == 7
    assert set(point) == {"batch", "new", "cached", "total"}
    assert len(point) == 4


@given(st.integers(0, 200), st.integers(1, 200), st.integers(1, 150))
def test_a_window_bounds_the_tokens_that_attention_reads(cached: int, new: int, window: int) -> None:
    point = Point(1, new, cached)
    assert float(windowed(window).evaluate(point)) == min(window, cached + new)
    assert float(windowed(None).evaluate(point)) == cached + new
