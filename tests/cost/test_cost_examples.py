"""Every example that ONNX gives of its ops has a price, in whatever form the op is written."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.backend.test.case.node import collect_testcases
from reference import RULES

from disaggc.cost import Op, Operand, price
from disaggc.ir.graph import Attribute


def _examples() -> dict[str, list[tuple[str, Op]]]:
    """Op type to its examples, with the extents of the arrays that they are run on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the infinities that some examples are about
        cases = collect_testcases(None)
    found: dict[str, list[tuple[str, Op]]] = {}
    for case in cases:
        assert case.model is not None
        assert case.data_sets is not None
        node = case.model.graph.node[0]
        if len(case.model.graph.node) == 1 and not node.domain and node.op_type in RULES.by_op:
            op = _op(case.model.graph, case.data_sets[0])
            found.setdefault(node.op_type, []).append((case.name, op))
    return found


def _op(graph: onnx.GraphProto, data: Any) -> Op:
    node, (fed, expected) = graph.node[0], data
    arrays = dict(zip((v.name for v in (*graph.input, *graph.output)), (*fed, *expected), strict=True))
    extents = {name: Operand(_extents(array)) for name, array in arrays.items()}
    attributes = tuple((a.name, _value(a)) for a in node.attribute)
    inputs, outputs = (
        tuple(extents[name] if name else None for name in names) for names in (node.input, node.output)
    )
    return Op(node.op_type, attributes, inputs, outputs)


def _extents(array: Any) -> tuple[int, ...] | None:
    """None for sequences and options."""
    if isinstance(array, onnx.TensorProto):
        return tuple(array.dims)
    return np.shape(array) if isinstance(array, np.ndarray | np.generic) else None


def _value(attribute: onnx.AttributeProto) -> Attribute:
    value: Any = helper.get_attribute_value(attribute)
    if isinstance(value, list):
        return tuple(value)
    return value.decode() if isinstance(value, bytes) else value if isinstance(value, int | float) else ""


EXAMPLES = _examples()


@pytest.mark.parametrize("op", sorted(EXAMPLES))
def test_every_example_of_an_op_has_a_price(op: str) -> None:
    for name, example in EXAMPLES[op]:
        priced = price(example, RULES.by_op[op])
        assert priced.complaint == "", name
        assert all(coefficient >= 0 for _, coefficient in priced.cost.flops.terms), name


def test_examples_are_of_most_ops() -> None:
    assert len(EXAMPLES) > 0.9 * len([op for op in RULES.by_op if "::" not in op])
