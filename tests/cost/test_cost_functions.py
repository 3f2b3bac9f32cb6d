"""What ONNX defines as a function of other ops costs what they do, whichever an exporter writes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx.inliner
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from reference import RULES, Given, Shape, feeds, flops, model, shape

from disaggc.cost import Op, Operand, price

X: Shape = (7, 90)
LAST = np.asarray([1])
FUNCTIONS: list[tuple[str, list[Given], dict[str, Any]]] = [
    ("Bernoulli", [X], {}),
    ("BlackmanWindow", [np.asarray(200)], {}),
    ("Celu", [X], {}),
    ("Elu", [X], {}),
    ("Gelu", [X], {"approximate": "none"}),
    ("GroupNormalization", [(3, 4, 90), (4,), (4,)], {"num_groups": 2}),
    ("HammingWindow", [np.asarray(200)], {}),
    ("HannWindow", [np.asarray(200)], {}),
    ("HardSigmoid", [X], {}),
    ("HardSwish", [X], {}),
    ("LayerNormalization", [X, (90,), (90,)], {}),
    ("LayerNormalization", [X, (90,)], {}),
    ("LeakyRelu", [X], {}),
    ("LogSoftmax", [X], {}),
    ("MeanVarianceNormalization", [(3, 4, 5, 9)], {}),
    ("Mish", [X], {}),
    ("PRelu", [X, (90,)], {}),
    ("RMSNormalization", [X, (90,)], {}),
    ("ReduceL1", [X, LAST], {}),
    ("ReduceL2", [X, LAST], {}),
    ("ReduceLogSum", [X, LAST], {}),
    ("ReduceLogSumExp", [X, LAST], {}),
    ("ReduceSumSquare", [X, LAST], {}),
    ("Relu", [X], {}),
    ("Selu", [X], {}),
    ("Shrink", [X], {}),
    ("Softmax", [X], {}),
    ("SoftmaxCrossEntropyLoss", [X, np.arange(7)], {}),
    ("Softplus", [X], {}),
    ("Softsign", [X], {}),
    ("SwiGLU", [X, X], {"alpha": 2.0}),
    ("Swish", [X], {"alpha": 2.0}),
    ("ThresholdedRelu", [X], {}),
]


def _written_out(op: str, inputs: list[Given], attributes: dict[str, Any]) -> tuple[float, list[Shape]]:
    """Flops of the nodes of the op's function, by their own rules, and the extents of its outputs."""
    whole = onnx.inliner.inline_selected_functions(
        model(op, inputs, 1, _defaults(op) | attributes), [("", op)], inline_schema_functions=True
    )
    graph = whole.graph
    assert [n.op_type for n in graph.node] != [op]
    names = list(dict.fromkeys(name for node in graph.node for name in node.output))
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    given = feeds(inputs)
    found = dict(zip(names, ReferenceEvaluator(whole).run(None, given), strict=True)) | given
    extents = {name: np.shape(value) for name, value in found.items()}
    return sum(_node(node, extents) for node in graph.node), [extents["out0"]]


def _defaults(op: str) -> dict[str, Any]:
    """Attributes that the op's function reads although nobody gives them."""
    declared = {name: a.default_value for name, a in onnx.defs.get_schema(op).attributes.items()}
    return {name: helper.get_attribute_value(value) for name, value in declared.items() if value.type}


def _node(node: onnx.NodeProto, extents: dict[str, Shape]) -> float:
    attributes = tuple((a.name, _value(a)) for a in node.attribute)
    inputs = tuple(Operand(extents[name]) if name else None for name in node.input)
    outputs = tuple(Operand(extents[name]) for name in node.output)
    priced = price(Op(node.op_type, attributes, inputs, outputs), RULES.by_op[node.op_type])
    assert priced.complaint == ""
    constant = priced.cost.flops.constant
    assert constant is not None
    return constant


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return ""
    return value.decode() if isinstance(value, bytes) else tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"), FUNCTIONS, ids=[f"{op}-{len(i)}" for op, i, _ in FUNCTIONS]
)
def test_an_op_costs_what_its_function_costs(
    op: str, inputs: list[Given], attributes: dict[str, Any]
) -> None:
    counted, outputs = _written_out(op, inputs, attributes)
    extents = shape(inputs[0]) or outputs[0]
    elements, rows = math.prod(extents), math.prod(extents[:-1])
    few = 10 + 8 * rows  # what the function does with a row's sums, and with its own constants
    assert flops(op, inputs, outputs, **attributes) == pytest.approx(counted, abs=few)
    assert few < elements, "a flop more or less an element would go unseen"


def test_a_bound_costs_a_comparison() -> None:
    for bounds in ([()], [(), ()]):
        assert flops("Clip", [X, *bounds], [X]) == len(bounds) * flops("Max", [X, ()], [X])


def test_an_activation_with_a_neutral_scale_costs_what_exporters_write_out() -> None:
    written = flops("Sigmoid", [X], [X]) + flops("Mul", [X, X], [X])
    assert flops("Swish", [X], [X]) == flops("com.microsoft::QuickGelu", [X], [X], alpha=1.0) == written
    assert flops("SwiGLU", [X, X], [X]) == written + flops("Mul", [X, X], [X])


def test_a_fused_norm_costs_the_sum_and_the_norm() -> None:
    fused = flops("com.microsoft::SkipSimplifiedLayerNormalization", [X, X, (90,)], [X])
    assert fused == flops("Add", [X, X], [X]) + flops("RMSNormalization", [X, (90,)], [X])
    assert flops("SimplifiedLayerNormalization", [X, (90,)], [X]) == flops(
        "RMSNormalization", [X, (90,)], [X]
    )
    whole = flops("com.microsoft::SkipLayerNormalization", [X, X, (90,), (90,)], [X])
    assert whole == flops("Add", [X, X], [X]) + flops("LayerNormalization", [X, (90,), (90,)], [X])
