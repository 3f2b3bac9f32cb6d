"""One op at a time: run by the reference implementation that ONNX ships, and priced by its rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from counting import Tally, tally
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from disaggc.cost import Op, Operand, load_rules, price
from disaggc.frontends import onnx_signatures
from disaggc.ir import Point

RULES = load_rules(onnx_signatures())
Shape = tuple[int, ...]
Given = npt.NDArray[Any] | Shape | None
"""An input: an array, the shape of a random one, or absent."""


def model(op: str, inputs: Sequence[Given], outputs: int, attributes: dict[str, Any]) -> onnx.ModelProto:
    """A model of one op."""
    names = ["" if given is None else f"in{k}" for k, given in enumerate(inputs)]
    made = [f"out{k}" for k in range(outputs)]
    node = helper.make_node(op, names, made, **attributes)
    declared = [
        _declared(name, given) for name, given in zip(names, inputs, strict=True) if given is not None
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made]
    return helper.make_model(
        helper.make_graph([node], "one", declared, results),
        opset_imports=[helper.make_opsetid("", onnx.defs.onnx_opset_version())],
    )


def _declared(name: str, given: npt.NDArray[Any] | Shape) -> onnx.ValueInfoProto:
    if isinstance(given, tuple):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, given)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(given.dtype), given.shape)


def feeds(inputs: Sequence[Given]) -> dict[str, npt.NDArray[Any]]:
    """Random arrays for shapes, away from 0; arrays are themselves."""
    random = np.random.default_rng(7)
    return {
        f"in{k}": random.uniform(0.5, 1.5, given).astype(np.float32) if isinstance(given, tuple) else given
        for k, given in enumerate(inputs)
        if given is not None
    }


@dataclass(frozen=True, slots=True)
class Run:
    """What the reference implementation did.

    Attributes:
        flops: Elements worked out, by numpy function.
        outputs: The op's outputs.
    """

    flops: dict[str, int]
    outputs: list[npt.NDArray[Any]]


def run(op: str, inputs: Sequence[Given], outputs: int = 1, **attributes: Any) -> Run:
    """Run one op on arrays that count; integers are parameters and do not."""
    evaluator = ReferenceEvaluator(model(op, inputs, outputs, attributes))
    given = {k: v.view(Tally) if v.dtype == np.float32 else v for k, v in feeds(inputs).items()}
    results: list[npt.NDArray[Any]] = []
    with np.errstate(all="ignore"):  # of functions outside their range: a number is a number
        flops = tally(lambda: results.extend(np.asarray(r) for r in evaluator.run(None, given)))
    return Run(dict(flops), results)


def expected(op: str, inputs: Sequence[Given], outputs: int = 1, /, **attributes: Any) -> list[Any]:
    """What the reference implementation computes."""
    return list(ReferenceEvaluator(model(op, inputs, outputs, attributes)).run(None, feeds(inputs)))


def shape(given: Given) -> Shape | None:
    """The extents of an input."""
    return given if isinstance(given, tuple) or given is None else given.shape


def flops(
    op: str,
    inputs: Sequence[Given],
    outputs: Sequence[npt.NDArray[Any] | Shape],
    at: tuple[int, int, int] | None = None,
    **attributes: Any,
) -> float:
    """What the declared rule says; ``at`` a batch, new and cached tokens if it asks for them."""
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in attributes.items()}
    ins = tuple(None if i is None else Operand(shape(i)) for i in inputs)
    priced = price(
        Op(op, tuple(given.items()), ins, tuple(Operand(shape(o)) for o in outputs)), RULES.by_op[op]
    )
    assert priced.complaint == ""
    if at is not None:
        return float(priced.cost.flops.evaluate(Point(*at)))
    constant = priced.cost.flops.constant
    assert constant is not None
    return constant
