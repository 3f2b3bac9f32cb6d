"""Fused skip-and-normalise ops as an add and a norm: the same numbers, one tensor less across a cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime import InferenceSession  # type: ignore[attr-defined]  # no __all__ there

from disaggc.backends.onnxruntime import boundary
from disaggc.frontends import open_model, unfused

SHAPE = [2, 3, 8]
RMS = ("SkipSimplifiedLayerNormalization", ["x", "skip", "gamma"])
RMS_BIAS = ("SkipSimplifiedLayerNormalization", ["x", "skip", "gamma", "bias"])
LAYER = ("SkipLayerNormalization", ["x", "skip", "gamma"])
LAYER_FULL = ("SkipLayerNormalization", ["x", "skip", "gamma", "beta", "bias"])


def _model(op: str, inputs: list[str], opset: int = 21, outputs: int = 4) -> onnx.ModelProto:
    written = ["y", "", "", "sum"][:outputs]
    node = helper.make_node(op, inputs, written, domain="com.microsoft", epsilon=1e-3)
    wide = ("x", "skip")
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE if n in wide else [8]) for n in inputs]
    taken = [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE) for n in written if n]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(
        helper.make_graph([node], "g", given, taken), opset_imports=opsets, ir_version=10
    )


@pytest.mark.parametrize(("op", "inputs"), [RMS, RMS_BIAS, LAYER, LAYER_FULL])
def test_both_forms_compute_the_same(op: str, inputs: list[str]) -> None:
    model = _model(op, inputs)
    other = unfused(model)
    assert other is not None
    assert {node.domain for node in other.graph.node} == {""}
    draw = np.random.default_rng(1)
    feeds = {n: draw.standard_normal(SHAPE if n in ("x", "skip") else [8], np.float32) for n in inputs}
    found, expected = (
        InferenceSession(m.SerializeToString()).run(["y", "sum"], feeds) for m in (other, model)
    )
    for mine, fused in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(fused), rtol=1e-5, atol=1e-6)


def test_an_op_that_keeps_its_sum_stays_fused() -> None:
    assert unfused(_model(*RMS, outputs=1)) is None


def test_an_opset_without_the_norm_stays_fused() -> None:
    assert unfused(_model(*LAYER, opset=16)) is None


def test_one_tensor_less_crosses_between_attention_and_ffn(skeleton: Callable[[str], Path]) -> None:
    model = open_model(skeleton("genai.qwen3.fp32"))
    other = unfused(model)
    assert other is not None
    assert _crossing(other) == _crossing(model) - 1


def _crossing(model: onnx.ModelProto) -> int:
    """Tensors that go from what is before the first feed-forward's norm to it and what is behind it."""
    nodes = model.graph.node
    norm = next(
        i for i, n in enumerate(nodes) if "post_attention_layernorm" in n.name and "Norm" in n.op_type
    )
    first, second = boundary(model, [range(norm), range(norm, len(nodes))])
    return len(set(second.inputs) & set(first.outputs))
