from typing import ClassVar

import pytest

from disaggc.cost import Op, Operand, load_rules, parse_formula, price
from disaggc.errors import DeclarationError
from disaggc.frontends import onnx_signatures
from disaggc.ir import Expr


class Sample:
    """A MatMul of [batch, 4] by [4, 8] with an attribute."""

    shapes: ClassVar = {"A": (Expr.of("batch"), Expr.of(4)), "B": (Expr.of(4), Expr.of(8))}

    def shape(self, name: str) -> tuple[Expr, ...] | None:
        return self.shapes.get(name)

    def has(self, name: str) -> bool:
        return name in self.shapes

    def attribute(self, name: str) -> Expr:
        return Expr.of({"k": 2, "flag": 1}[name])

    def symbol(self, name: str) -> Expr:
        return Expr.of(name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", Expr()),
        ("2 * size(A)", Expr.of("batch") * 8),
        ("dim(A, 0) + dim(B, -1)", Expr.of("batch") + 8),
        ("rank(A) * k", Expr.of(4)),
        ("size(A) / dim(A, 1)", Expr.of("batch")),
        ("-k + 3", Expr.of(1)),
        ("5 if has(C) else 7", Expr.of(7)),
        ("5 if not has(C) else 7", Expr.of(5)),
        ("5 if flag == 1 else 7", Expr.of(5)),
        ("5 if flag != 1 else 7", Expr.of(7)),
        ("total * cached", Expr.of("total") * Expr.of("cached")),
        ("size(B) / 49", Expr.of(32 / 49)),
    ],
)
def test_formulas_mean_what_they_say(text: str, value: Expr) -> None:
    assert parse_formula(text, "here").evaluate(Sample()) == value


@pytest.mark.parametrize(
    "text",
    [
        "size.__class__",
        "A.shape",
        "__import__('os')",
        "open(A)",
        "eval(A)",
        "size('A')",
        "'text'",
        "True",
        "None",
        "[1, 2]",
        "A[0]",
        "lambda: 1",
        "size(A) ** 2",
        "size(A) // 2",
        "size(A) < 2",
        "1 == 2 == 3",
        "(a := 3)",
        "size(A, B, *C)",
        "size(size(A))",
        "dim(x=A)",
        "dim(A)",
        "dim(A, i=1)",
        "size(A, 1)",
        "has(A)",
        "5 if k else 7",
        "5 if not k else 7",
        "size(A) + (1 == 1)",
        pytest.param("-" * 100_000 + "1", id="deep"),
        "f'{A}'",
        "{1: 2}",
        "1; 2",
        "",
        "size(A",
        "1j",
    ],
)
def test_whatever_is_no_formula_is_refused(text: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        parse_formula(text, "here")
    assert str(refusal.value).startswith(f"here: '{text}' is no cost formula: ")


def test_an_unknown_extent_is_an_error_and_not_a_number() -> None:
    with pytest.raises(ValueError, match="'C' is absent or has no known shape"):
        parse_formula("size(C)", "here").evaluate(Sample())
    with pytest.raises(ValueError, match="'A' has no axis 7"):
        parse_formula("dim(A, 7)", "here").evaluate(Sample())


def test_names_are_those_of_the_op_and_not_the_workload() -> None:
    assert parse_formula("2 * size(A) * k * total + batch", "here").names == {"A", "k"}


def test_an_op_whose_shapes_are_unknown_says_so() -> None:
    rule = load_rules(onnx_signatures()).by_op["MatMul"]
    blind = price(Op("MatMul", (), (Operand(None), Operand(None)), (Operand(None),)), rule)
    assert blind.cost.flops == Expr()
    attention = load_rules(onnx_signatures()).by_op["Attention"]
    shapes = (Operand((1, 2, 3, 4)), Operand((1, 2, 3, 4)), Operand((1, 2, 3, 4)), None, Operand(None))
    unclear = price(Op("Attention", (), shapes, (Operand((1, 2, 3, 4)),)), attention)
    assert (
        unclear.complaint == "The flops of Attention are unknown ('past_key' is absent or has no known shape)"
    )
    assert blind.complaint == "The flops of MatMul are unknown ('Y' is absent or has no known shape)"
