"""Writes mixture-of-experts decoders of full size as ONNX graphs whose weights are declared, not stored.

    python examples/models/make_moe.py                                 # the presets, beside this file
    python examples/models/make_moe.py moe_1t --layers 8 --out small.onnx

A graph compiles and is planned like any other; it can't run, because the file that its weights are
declared in ('weights.bin', at running offsets) exists nowhere. Needs only the package onnx. The same shape
gives the same bytes.

Each layer: RMSNorm, QKV, GroupQueryAttention with rotary positions and its cache in place, output projection,
residual; RMSNorm, router, com.microsoft MoE (SwiGLU, top-k weights normalised), residual. The first layers
may be dense, and a shared expert may stand beside the routed ones.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

MICROSOFT = "com.microsoft"
BATCH, NEW, MAX_TOKENS = "batch", "new", "max_tokens"
TOKENS = (BATCH, NEW)
WEIGHTS = "weights.bin"

Dims = Sequence[int | str]


@dataclass(frozen=True)
class Shape:
    """What a decoder is made of; every count is of one layer unless it says otherwise."""

    layers: int
    hidden: int
    experts: int
    top_k: int
    expert_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    shared_width: int = 0
    """Width of a dense FFN beside the routed experts; 0: none."""
    dense_layers: int = 0
    """How many layers, from the first on, have a dense FFN instead of experts."""
    dense_width: int = 0
    """Width of the FFN in those."""
    positions: int = 4096
    """Rows of the rotary tables."""
    element_type: str = "BFLOAT16"
    """Of weights, activations and caches, by its name in onnx.TensorProto."""


PRESETS = {
    "moe_1t": Shape(
        layers=61,
        hidden=7168,
        experts=384,
        top_k=8,
        expert_width=2048,
        heads=64,
        kv_heads=8,
        head_dim=128,
        vocabulary=163_840,
    ),
    "qwen3_235b": Shape(
        layers=94,
        hidden=4096,
        experts=128,
        top_k=8,
        expert_width=1536,
        heads=64,
        kv_heads=4,
        head_dim=128,
        vocabulary=151_936,
    ),
}
"""``moe_1t`` is made up: of Kimi-K2's size (1.04e12 parameters, 1.03e12 of them routed experts), but with
grouped-query attention, and neither a shared expert nor a dense layer. ``qwen3_235b`` has the published
dimensions of Qwen3-235B-A22B (its norms of queries and keys left out)."""


def make(shape: Shape, name: str = "moe") -> onnx.ModelProto:
    """The decoder of a shape: token ids, lengths and caches in; logits and caches out."""
    made = _Graph(TensorProto.DataType.Value(shape.element_type))
    made.inputs.append(helper.make_tensor_value_info("input_ids", TensorProto.INT64, TOKENS))
    made.inputs.append(helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, (BATCH,)))
    made.inputs.append(helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, ()))
    table = (shape.positions, shape.head_dim // 2)
    rotary = (made.weight("cos", table), made.weight("sin", table))
    if shape.dense_layers < shape.layers:
        made.constant("rows", (-1, shape.experts))
    embedding = made.weight("embed", (shape.vocabulary, shape.hidden))
    stream = made.op("Gather", (embedding, "input_ids"), (*TOKENS, shape.hidden))
    for layer in range(shape.layers):
        stream = _attention(made, shape, f"l{layer}", stream, rotary)
        stream = _ffn(made, shape, layer, stream)
    normed = _norm(made, shape, "norm", stream)
    head = made.weight("head", (shape.hidden, shape.vocabulary))
    made.op("MatMul", (normed, head), (*TOKENS, shape.vocabulary), to="logits")
    made.outputs.insert(0, made.values.pop())
    return made.model(name)


def _attention(made: _Graph, shape: Shape, layer: str, stream: str, rotary: tuple[str, str]) -> str:
    width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    normed = _norm(made, shape, f"{layer}.n1", stream)
    qkv = [
        _project(made, f"{layer}.{name}", normed, shape.hidden, out)
        for name, out in (("q", width), ("k", kv_width), ("v", kv_width))
    ]
    cache = (BATCH, shape.kv_heads, MAX_TOKENS, shape.head_dim)
    states = [made.state(f"{layer}.{name}", cache) for name in ("key", "value")]
    attended = made.op(
        "GroupQueryAttention",
        (*qkv, *(past for past, _ in states), "seqlens_k", "total_sequence_length", *rotary),
        (*TOKENS, width),
        more=[present for _, present in states],
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        do_rotary=1,
    )
    out = _project(made, f"{layer}.o", attended, width, shape.hidden)
    return made.op("Add", (stream, out), (*TOKENS, shape.hidden))


def _ffn(made: _Graph, shape: Shape, layer: int, stream: str) -> str:
    normed = _norm(made, shape, f"l{layer}.n2", stream)
    if layer < shape.dense_layers:
        out = _dense(made, shape, f"l{layer}", normed, shape.dense_width)
    else:
        out = _experts(made, shape, f"l{layer}", normed)
        if shape.shared_width:
            shared = _dense(made, shape, f"l{layer}.s", normed, shape.shared_width)
            out = made.op("Add", (out, shared), (*TOKENS, shape.hidden))
    return made.op("Add", (stream, out), (*TOKENS, shape.hidden))


def _experts(made: _Graph, shape: Shape, layer: str, normed: str) -> str:
    """Routed experts; the op wants the router's scores as rows of tokens."""
    scores = _project(made, f"{layer}.r", normed, shape.hidden, shape.experts)
    rows = made.op("Reshape", (scores, "rows"), ("rows", shape.experts))
    up = made.weight(f"{layer}.gu", (shape.experts, 2 * shape.expert_width, shape.hidden))
    down = made.weight(f"{layer}.dn", (shape.experts, shape.hidden, shape.expert_width))
    return made.op(
        "MoE",
        (normed, rows, up, "", down),
        (*TOKENS, shape.hidden),
        k=shape.top_k,
        activation_type="swiglu",
        swiglu_fusion=1,
        normalize_routing_weights=1,
    )


def _dense(made: _Graph, shape: Shape, name: str, normed: str, width: int) -> str:
    """A SwiGLU FFN."""
    gate = _project(made, f"{name}.g", normed, shape.hidden, width)
    up = _project(made, f"{name}.u", normed, shape.hidden, width)
    inner = (*TOKENS, width)
    swish = made.op("Mul", (gate, made.op("Sigmoid", (gate,), inner)), inner)
    return _project(made, f"{name}.d", made.op("Mul", (swish, up), inner), width, shape.hidden)


def _norm(made: _Graph, shape: Shape, name: str, stream: str) -> str:
    scale = made.weight(name, (shape.hidden,))
    return made.op("RMSNormalization", (stream, scale), (*TOKENS, shape.hidden), epsilon=1e-6)


def _project(made: _Graph, name: str, x: str, rows: int, columns: int) -> str:
    return made.op("MatMul", (x, made.weight(name, (rows, columns))), (*TOKENS, columns))


@dataclass
class _Graph:
    """What has been made of a graph so far, and how far into the file of weights it reaches."""

    element_type: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    values: list[onnx.ValueInfoProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    offset: int = 0

    def weight(self, name: str, dims: tuple[int, ...]) -> str:
        """A tensor that lies behind those declared so far."""
        itemsize = helper.tensor_dtype_to_np_dtype(self.element_type).itemsize
        tensor = TensorProto(name=name, data_type=self.element_type, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        length = math.prod(dims) * itemsize
        for key, value in (("location", WEIGHTS), ("offset", self.offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.weights.append(tensor)
        self.offset += length
        return name

    def constant(self, name: str, values: Sequence[int]) -> None:
        """A vector of int64 that the model file itself holds."""
        self.weights.append(helper.make_tensor(name, TensorProto.INT64, (len(values),), values))

    def state(self, name: str, dims: Dims) -> tuple[str, str]:
        """A cache: its name as input and as output."""
        past, present = (
            helper.make_tensor_value_info(f"{when}.{name}", self.element_type, dims)
            for when in ("past", "present")
        )
        self.inputs.append(past)
        self.outputs.append(present)
        return past.name, present.name

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        dims: Dims,
        more: Sequence[str] = (),
        to: str = "",
        **attributes: int | float | str,
    ) -> str:
        """One node whose first output has ``dims``; the name of that output."""
        name = to or f"v{len(self.nodes)}"
        domain = MICROSOFT if kind in ("GroupQueryAttention", "MoE") else ""
        node = helper.make_node(kind, inputs, [name, *more], domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        self.values.append(helper.make_tensor_value_info(name, self.element_type, dims))
        return name

    def model(self, name: str) -> onnx.ModelProto:
        """The whole, as a model of opset 23."""
        graph = helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, self.weights, value_info=self.values
        )
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, ir_version=11, opset_imports=opsets, producer_name="make_moe")


def write(shape: Shape, path: Path) -> None:
    """The decoder of a shape as a file, named after it."""
    path.write_bytes(make(shape, path.stem).SerializeToString(deterministic=True))


def main() -> None:
    """Write the presets, or one with some of its fields replaced."""
    parser = argparse.ArgumentParser(description="Write mixture-of-experts decoders without weights.")
    parser.add_argument("preset", nargs="?", choices=PRESETS, help="which one; default: all of them")
    parser.add_argument("--out", type=Path, help="where to; default: beside this script")
    for one in fields(Shape):
        kind = str if one.name == "element_type" else int
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=kind)
    options = vars(parser.parse_args())
    preset, out = options.pop("preset"), options.pop("out")
    changed = {name: value for name, value in options.items() if value is not None}
    for name in [preset] if preset else PRESETS:
        write(replace(PRESETS[name], **changed), out or Path(__file__).parent / f"{name}.onnx")


if __name__ == "__main__":
    main()
