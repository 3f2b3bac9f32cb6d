"""Ops that do the same on other numbers cost the same; what chooses or draws costs one for each result."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from counting import Tally, tally
from reference import Given, Shape, expected, feeds, flops, run

MS = "com.microsoft::"
YES = np.ones((3, 1, 4), dtype=bool)
ONES = np.ones((3, 1, 4), dtype=np.uint8)
X: Shape = (3, 5, 4)
MANY = np.ones(X, dtype=np.uint8)
Example = tuple[str, list[Given], dict[str, Any]]


def _all(ops: str, inputs: list[Given], **attributes: Any) -> list[Example]:
    return [(op, inputs, attributes) for op in ops.split()]


OF_EACH_RESULT: list[Example] = [
    *_all("And Or Xor Equal", [YES, np.ones(X, dtype=bool)]),
    *_all("BitwiseAnd BitwiseOr BitwiseXor", [ONES, MANY]),
    ("BitShift", [ONES, MANY], {"direction": "LEFT"}),
    ("BitwiseNot", [MANY], {}),
    ("Not", [YES], {}),
    *_all("IsInf IsNaN Sigmoid RandomNormalLike RandomUniformLike", [X]),
    *_all("RandomNormal RandomUniform", [], shape=[3, 5]),
    ("Where", [YES, X, ()], {}),
]
"""Ops that cost one operation, drawing or choosing included, for each element of the result."""


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"), OF_EACH_RESULT, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_result_costs_one_operation(op: str, inputs: list[Given], attributes: dict[str, Any]) -> None:
    (result,) = expected(op, inputs, **attributes)
    assert flops(op, inputs, [result], **attributes) == result.size


def test_a_sum_of_n_costs_one_operation_less_than_n() -> None:
    assert flops("Sum", [X, X, X], [X]) == 2 * flops("Add", [X, X], [X])
    assert flops("Sum", [X], [X]) == 0


def test_a_draw_costs_one_and_a_loss_a_sign_and_a_sum() -> None:
    assert flops("Multinomial", [(3, 5)], [(3, 9)], sample_size=9) == 27
    assert flops("NegativeLogLikelihoodLoss", [(7, 90), (7,)], [()]) == 14


def test_finding_distinct_elements_costs_a_look_at_each() -> None:
    assert flops("Unique", [X], [(7,)]) == 60


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_a_scattered_update_costs_what_is_done_with_it(op: str) -> None:
    inputs = [X, (6, 1), (6, 4)]
    assert flops(op, inputs, [X]) == 0
    assert flops(op, inputs, [X], reduction="add") == flops(op, inputs, [X], reduction="max") == 24


def test_integer_products_cost_what_those_of_floats_do() -> None:
    a, b, y = (2, 3, 4), (4, 5), (2, 3, 5)
    plain = flops("MatMul", [a, b], [y])
    assert flops("MatMulInteger", [a, b], [y]) == plain
    assert flops("QLinearMatMul", [a, (), (), b, (), (), (), ()], [y]) == plain
    x, w, z = (1, 4, 6, 6), (8, 2, 3, 3), (1, 8, 4, 4)
    convolved = flops("Conv", [x, w], [z])
    assert flops("ConvInteger", [x, w], [z]) == flops(f"{MS}FusedConv", [x, w], [z]) == convolved
    assert flops("QLinearConv", [x, (), (), w, (), (), (), ()], [z]) == convolved


def test_attention_in_other_formats_costs_the_same() -> None:
    at, x, y = (2, 3, 5), (2, 3, 8), (2, 3, 8)
    past: Shape = (2, 2, 2, 5, 4)
    plain = flops(f"{MS}Attention", [x, (8, 24), (24,), None, past], [y], at)
    assert flops(f"{MS}DecoderMaskedSelfAttention", [x, (8, 24), (24,), None, past], [y], at) == plain
    packed: list[Given] = [x, (8, 24), (24,), (), (), None, None, None, past]
    assert flops(f"{MS}QAttention", packed, [y], at) == plain
    grouped = flops(f"{MS}GroupQueryAttention", [x, x, x], [y], at)
    assert flops(f"{MS}SparseAttention", [x, x, x], [y], at) == grouped
    chosen = flops(f"{MS}DynamicSparseAttention", [x, x, x, past, past, None, None, (6, 4)], [y], at)
    assert flops(f"{MS}SparsePagedAttention", [(6, 8)] * 3 + [past] * 6 + [(6, 4)], [(6, 8)], at) == chosen


def test_every_channel_for_itself_is_a_group_of_one() -> None:
    x: Shape = (2, 3, 50)
    inputs: list[Given] = [x, (3,), (3,)]
    grouped = flops("GroupNormalization", inputs, [x], num_groups=3)
    assert flops("InstanceNormalization", inputs, [x]) == grouped
    trained = flops("BatchNormalization", [x, *[(3,)] * 4], [x], training_mode=1)
    assert trained == grouped


def test_known_moments_fold_into_a_scale_and_a_shift() -> None:
    inputs: list[Given] = [(2, 3, 50), (3,), (3,), (3,), (3,)]
    x, scale, bias, mean, variance = feeds(inputs).values()
    (wanted,) = expected("BatchNormalization", inputs)
    factor = (scale / np.sqrt(variance + 1e-5))[:, None]
    shift = bias[:, None] - mean[:, None] * factor
    mine: list[npt.NDArray[Any]] = []
    counted = tally(lambda: mine.append(x.view(Tally) * factor + shift))
    np.testing.assert_allclose(np.asarray(mine[0]), wanted, rtol=1e-4)
    assert flops("BatchNormalization", inputs, [wanted]) == sum(counted.values())


def test_a_grid_costs_a_product_for_each_coordinate() -> None:
    for theta, size in (((2, 2, 3), [2, 1, 5, 6]), ((2, 3, 4), [2, 1, 3, 4, 5])):
        inputs: list[Given] = [theta, np.asarray(size)]
        done = run("AffineGrid", inputs)
        assert flops("AffineGrid", inputs, done.outputs) == done.flops["product"]


def test_the_older_resizing_costs_what_the_newer_one_does() -> None:
    inputs, output = [(1, 3, 4, 4), (4,)], (1, 3, 8, 8)
    assert flops("Upsample", inputs, [output]) == 0
    assert flops("Upsample", inputs, [output], mode="linear") == flops(
        "Resize", inputs, [output], mode="linear"
    )
