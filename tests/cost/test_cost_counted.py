"""Rules against the flops that ONNX's own reference implementations do, on random shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Given, Shape, flops, run

SMALL = st.integers(1, 5)
SHAPES = st.lists(SMALL, min_size=1, max_size=4).map(tuple)

ONE_INPUT = """
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Relu Round Sign
    Sin Sinh Sqrt Tan Tanh
""".split()  # noqa: SIM905 (as many lines as ops otherwise)
TWO_INPUTS = ("Add", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Pow", "Sub", "Mod")
ROWS = {
    "Softmax": 0,
    "RMSNormalization": 1,
    "LayerNormalization": 2,
    "LpNormalization": 0,
}
"""Ops that normalise the last axis, with how many weights of its extent they take."""


@pytest.mark.parametrize("op", ONE_INPUT)
@given(shape=SHAPES)
@settings(max_examples=5)
def test_a_function_of_an_element_costs_one_flop(op: str, shape: Shape) -> None:
    done = run(op, [shape])
    assert flops(op, [shape], done.outputs) == sum(done.flops.values())


@pytest.mark.parametrize("op", TWO_INPUTS)
@given(shape=SHAPES, ones=st.lists(st.booleans(), min_size=4, max_size=4))
@settings(max_examples=5)
def test_an_operation_on_two_elements_costs_one_flop_an_element_of_the_result(
    op: str, shape: Shape, ones: list[bool]
) -> None:
    other = tuple(1 if one else extent for extent, one in zip(shape, ones, strict=False))
    attributes = {"fmod": 1} if op == "Mod" else {}
    done = run(op, [other, shape], **attributes)
    assert flops(op, [other, shape], done.outputs) == max(done.flops.values()) == done.outputs[0].size


@pytest.mark.parametrize("op", ["Max", "Min", "Mean"])
@given(shape=SHAPES, count=SMALL)
@settings(max_examples=10)
def test_variadic_ops_cost_an_operation_for_each_operand_but_one(op: str, shape: Shape, count: int) -> None:
    inputs = [shape] * count
    done = run(op, inputs)
    assert flops(op, inputs, done.outputs) == sum(done.flops.values())


@pytest.mark.parametrize(
    "op", ["ReduceL1", "ReduceL2", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare"]
)
@given(shape=st.lists(st.integers(2, 6), min_size=2, max_size=4).map(tuple), axis=st.integers(0, 1))
@settings(max_examples=10)
def test_reductions_cost_each_element_and_little_for_each_result(op: str, shape: Shape, axis: int) -> None:
    inputs: list[Given] = [shape, np.asarray([axis])]
    done = run(op, inputs)
    counted = sum(done.flops.values())
    assert 0 <= counted - flops(op, inputs, done.outputs) <= done.outputs[0].size


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@given(shape=SHAPES)
@settings(max_examples=5)
def test_scans_cost_an_operation_an_element(op: str, shape: Shape) -> None:
    inputs: list[Given] = [shape, np.asarray(0)]
    done = run(op, inputs)
    assert flops(op, inputs, done.outputs) == sum(done.flops.values())


@pytest.mark.parametrize("op", ROWS)
@given(rows=SMALL, width=st.integers(2, 40), with_bias=st.booleans())
@settings(max_examples=10)
def test_norms_cost_each_element_and_a_few_flops_for_each_row(
    op: str, rows: int, width: int, with_bias: bool
) -> None:
    weights = ROWS[op] - (ROWS[op] == 2 and not with_bias)
    inputs = [(rows, width), *([(width,)] * weights)]
    done = run(op, inputs, axis=-1)
    assert 0 <= sum(done.flops.values()) - flops(op, inputs, done.outputs, axis=-1) <= 6 * rows


@given(batch=SMALL, groups=st.integers(1, 3), each=SMALL, width=st.integers(2, 20))
@settings(max_examples=10)
def test_group_normalisation_costs_seven_flops_an_element(
    batch: int, groups: int, each: int, width: int
) -> None:
    inputs: Sequence[Given] = [(batch, groups * each, width), (groups * each,), (groups * each,)]
    done = run("GroupNormalization", inputs, num_groups=groups)
    rule = flops("GroupNormalization", inputs, done.outputs, num_groups=groups)
    assert 0 <= sum(done.flops.values()) - rule <= 8 * batch * groups


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@given(shape=SHAPES)
@settings(max_examples=5)
def test_gelu_costs_what_its_formula_says(approximate: str, shape: Shape) -> None:
    done = run("Gelu", [shape], approximate=approximate)
    counted = sum(done.flops.values())
    extra = done.outputs[0].size if approximate == "tanh" else 0  # a scale that the reference does not fold
    assert counted - extra == flops("Gelu", [shape], done.outputs, approximate=approximate)


@given(batch=SMALL, heads=SMALL, new=SMALL, half=SMALL)
@settings(max_examples=10)
def test_rotation_costs_three_flops_an_element(batch: int, heads: int, new: int, half: int) -> None:
    inputs = [(batch, heads, new, 2 * half), (batch, new, half), (batch, new, half)]
    done = run("RotaryEmbedding", inputs)
    assert flops("RotaryEmbedding", inputs, done.outputs) == sum(done.flops.values())


@given(shape=SHAPES)
@settings(max_examples=10)
def test_dynamic_quantisation_costs_six_flops_an_element(shape: Shape) -> None:
    done = run("DynamicQuantizeLinear", [shape], outputs=3)
    scalars = 2  # zero joins the range
    assert flops("DynamicQuantizeLinear", [shape], done.outputs) == sum(done.flops.values()) - scalars


@given(
    batch=st.integers(1, 2),
    groups=st.integers(1, 3),
    ins=SMALL,
    outs=st.integers(1, 3),
    size=st.lists(st.integers(3, 6), min_size=1, max_size=2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    pad=st.integers(0, 1),
)
@settings(max_examples=30)
def test_convolutions_cost_every_product_of_the_kernel(
    batch: int, groups: int, ins: int, outs: int, size: list[int], kernel: int, stride: int, pad: int
) -> None:
    inputs = [(batch, groups * ins, *size), (groups * outs, ins, *[kernel] * len(size))]
    options: dict[str, Any] = {
        "group": groups, "strides": [stride] * len(size), "pads": [pad] * 2 * len(size),
    }  # fmt: skip
    done = run("Conv", inputs, **options)
    assert flops("Conv", inputs, done.outputs, **options) == done.flops["product"]


@given(batch=st.integers(1, 2), ins=SMALL, outs=SMALL, size=st.integers(2, 5), kernel=st.integers(1, 3))
@settings(max_examples=20)
def test_transposed_convolutions_spread_every_input(
    batch: int, ins: int, outs: int, size: int, kernel: int
) -> None:
    inputs = [(batch, ins, size, size), (ins, outs, kernel, kernel)]
    done = run("ConvTranspose", inputs)
    assert flops("ConvTranspose", inputs, done.outputs) == done.flops["product"]


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@given(batch=st.integers(1, 2), tokens=SMALL, heads=SMALL, group=st.integers(1, 3), dk=SMALL, dv=SMALL)
@settings(max_examples=10)
def test_linear_attention_costs_the_recurrence(
    rule: str, batch: int, tokens: int, heads: int, group: int, dk: int, dv: int
) -> None:
    wide = [(batch, tokens, heads * group * dk), (batch, tokens, heads * dk), (batch, tokens, heads * dv)]
    gate = (batch, tokens, heads)
    gates = [gate if "gated" in rule else None, gate if "delta" in rule else None]
    inputs: list[Given] = [*wide, (batch, heads, dk, dv), *gates]
    options: dict[str, Any] = {
        "q_num_heads": heads * group, "kv_num_heads": heads, "update_rule": rule, "scale": 1.0,
    }  # fmt: skip
    done = run("LinearAttention", inputs, outputs=2, **options)
    counted = sum(done.flops.values())
    vectors = batch * tokens * heads * (dk + dv) * (3 + group)  # gates and scales: no product with the state
    assert abs(counted - flops("LinearAttention", inputs, done.outputs, **options)) <= vectors


@pytest.mark.parametrize("activation", ["none", "silu"])
@given(batch=st.integers(1, 2), channels=SMALL, length=SMALL, kernel=st.integers(1, 4))
@settings(max_examples=10)
def test_causal_convolution_costs_its_taps(
    activation: str, batch: int, channels: int, length: int, kernel: int
) -> None:
    inputs: list[Given] = [
        (batch, channels, length),
        (channels, 1, kernel),
        None,
        (batch, channels, kernel - 1),
    ]
    done = run("CausalConvWithState", inputs, outputs=2, activation=activation)
    taps = done.flops["product"]
    rule = flops("CausalConvWithState", inputs, done.outputs, activation=activation)
    assert rule == taps + (2 * done.outputs[0].size if activation == "silu" else 0)
