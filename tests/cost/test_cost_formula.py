from typing import ClassVar

import pytest

from disaggc.cost import Op, Operand, load_rules, parse_formula, price
from disaggc.errors import DeclarationError
from disaggc.frontends import onnx_signatures
from disaggc.ir import Expr


class Sample:
    """A MatMul of [batch, 4] by [4, 8] with attributes."""

    known: ClassVar = {"A": (Expr.of("batch"), Expr.of(4)), "B": (Expr.of(4), Expr.of(8))}

    def shape(self, name: str) -> tuple[Expr, ...] | None:
        return self.known.get(name)

    def shapes(self, name: str) -> tuple[tuple[Expr, ...] | None, ...]:
        return tuple(shape for other, shape in self.known.items() if other >= name)

    def has(self, name: str) -> bool:
        return name in self.known or name == "k"

    def attribute(self, name: str) -> Expr:
        return Expr.of({"k": 2, "flag": 1, "window": 6}[name])

    def text(self, name: str) -> str:
        return {"mode": "linear", "equation": "ij, jk -> ik", "odd": "ijk,kl"}[name]

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
        ("5 if has(k) else 7", Expr.of(5)),
        ("5 if mode == 'linear' else 7", Expr.of(5)),
        ("5 if mode != 'linear' else 7", Expr.of(7)),
        ("5 if not mode == 'cubic' else 7", Expr.of(5)),
        ("count(A)", Expr.of(2)),
        ("count(B)", Expr.of(1)),
        ("volume(window)", Expr.of(6)),
        ("log2(dim(B, 1))", Expr.of(3)),
        ("points(A, equation)", Expr.of("batch") * 32),
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
        "mode == 'linear'",
        "5 if 'linear' == mode else 7",
        "5 if 'a' == 'b' else 7",
        "count(A, 1)",
        "count(2)",
        "points(A)",
        "points(A, 'ij')",
        "log2()",
        "log2('A')",
        "eval(log2)",
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
    with pytest.raises(ValueError, match="batch has no known logarithm"):
        parse_formula("log2(dim(A, 0))", "here").evaluate(Sample())
    with pytest.raises(ValueError, match="'ijk' does not name 2 axes"):
        parse_formula("points(A, odd)", "here").evaluate(Sample())
    with pytest.raises(ValueError, match="'ij, jk -> ik' is no equation over 1 operands"):
        parse_formula("points(B, equation)", "here").evaluate(Sample())


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
