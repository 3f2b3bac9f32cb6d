"""A decoder of state-space and attention layers, as hybrid models are: small, runnable, written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, INNER, TAPS, STATE, VOCABULARY, HEADS = 16, 32, 4, 8, 40, 2


class Builder:
    """Nodes, weights, inputs and outputs as they come."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._draw = np.random.default_rng(11)
        self._count = 0

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        values = self._draw.standard_normal(shape).astype(np.float32) / 4
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(self, values: Sequence[int]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        self._count += 1
        names = [f"v{self._count}.{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def last(self, output: int) -> str:
        name: str = self.nodes[-1].output[output]
        return name

    def state(self, name: str, past: Sequence[int | str], present: Sequence[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(f"{name}.in", TensorProto.FLOAT, past))
        self.outputs.append(helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, present))
        return f"{name}.in"

    def hand_back(self, value: str, name: str) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [f"{name}.out"]))


def hybrid(kinds: str = "ssas") -> onnx.ModelProto:
    """One layer a letter: 's' state-space with a convolution, 'a' attention; an FFN follows each."""
    make = Builder()
    make.inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "t"]))
    table = make.weight(VOCABULARY, HIDDEN)
    x = make.op("Gather", table, "ids")
    for i, kind in enumerate(kinds):
        inner = _normed(make, x)
        mixed = _ssm(make, inner, i) if kind == "s" else _attention(make, inner, i)
        x = make.op("Add", x, mixed)
        x = make.op("Add", x, _ffn(make, _normed(make, x)))
    logits = make.op("MatMul", _normed(make, x), make.weight(HIDDEN, VOCABULARY))
    make.outputs.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["b", "t", VOCABULARY]))
    graph = helper.make_graph(make.nodes, "hybrid", make.inputs, make.outputs, make.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def _normed(make: Builder, x: str) -> str:
    return make.op("RMSNormalization", x, make.weight(HIDDEN))


def _ffn(make: Builder, x: str) -> str:
    up = make.op("Relu", make.op("MatMul", x, make.weight(HIDDEN, INNER)))
    return make.op("MatMul", up, make.weight(INNER, HIDDEN))


def _ssm(make: Builder, x: str, i: int) -> str:
    """A causal convolution over the last tokens, then a decaying state [batch, width, state]."""
    wide = make.op("Transpose", make.op("MatMul", x, make.weight(HIDDEN, HIDDEN)), perm=[0, 2, 1])
    past = make.state(f"conv{i}", ["b", HIDDEN, TAPS - 1], ["b", HIDDEN, TAPS - 1])
    seen = make.op("Concat", past, wide, axis=2)
    kept = make.op("Slice", seen, make.constant([1 - TAPS]), make.constant([2**31]), make.constant([2]))
    make.hand_back(kept, f"conv{i}")
    mixed = make.op("Conv", seen, make.weight(HIDDEN, 1, TAPS), group=HIDDEN)
    held = make.state(f"ssm{i}", ["b", HIDDEN, STATE], ["b", HIDDEN, STATE])
    drive = make.op("Mul", make.op("ReduceSum", mixed, make.constant([2])), make.weight(HIDDEN, STATE))
    now = make.op("Add", make.op("Mul", held, make.weight(HIDDEN, STATE)), drive)
    make.hand_back(now, f"ssm{i}")
    read = make.op(
        "ReduceSum", make.op("Mul", now, make.weight(HIDDEN, STATE)), make.constant([2]), keepdims=0
    )
    out = make.op(
        "Mul", make.op("Transpose", mixed, perm=[0, 2, 1]), make.op("Unsqueeze", read, make.constant([1]))
    )
    return make.op("MatMul", out, make.weight(HIDDEN, HIDDEN))


def _attention(make: Builder, x: str, i: int) -> str:
    query, key, value = (make.op("MatMul", x, make.weight(HIDDEN, HIDDEN)) for _ in range(3))
    size = HIDDEN // HEADS
    pasts = [make.state(f"{n}{i}", ["b", HEADS, "p", size], ["b", HEADS, "p + t", size]) for n in ("k", "v")]
    out = make.op(
        "Attention",
        query,
        key,
        value,
        "",
        *pasts,
        outputs=3,
        is_causal=1,
        q_num_heads=HEADS,
        kv_num_heads=HEADS,
    )
    presents = make.last(1), make.last(2)
    for name, present in zip(("k", "v"), presents, strict=True):
        make.hand_back(present, f"{name}{i}")
    return make.op("MatMul", out, make.weight(HIDDEN, HIDDEN))
