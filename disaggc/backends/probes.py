"""Small ONNX graphs whose time says what kernels cost, and a small decoder that says what executors cost.

Each graph repeats one kind of op many times over, so that what a call of a session costs is spread
thin. Weights are float32 and arbitrary; no kernel's time hangs on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
OPSETS = (("", 21), (MICROSOFT, 1))
IR_VERSION = 10
_FLOAT = 4
"""Bytes of a float32."""
_BLOCK = 4096
"""Different numbers in a tensor of weights; the rest repeat them."""

Dims = tuple[int | str, ...]
_NONE: Mapping[str, int | float | str] = {}


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a probe is fed with.

    Attributes:
        dtype: 'float32', 'int32' or 'int64'.
        values: Its elements, all of one value if there is one; arbitrary floats if there is none.
        written_by: The output that is written into the same memory (a cache); '' for none.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    values: tuple[int, ...] = ()
    written_by: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A graph to time.

    Attributes:
        name: What it measures, for people.
        kind: The kind of kernel, as cost rules name it.
        model: The ONNX file's bytes.
        feeds: What its inputs are.
        nodes: Nodes of that kind that one run starts.
        flops, bytes: What one run takes by the cost rules: weights or caches once, activations left out.
        resident: Bytes that one run streams through, whatever the cost rules count.
        others: Nodes of other kinds that one run starts, by kind.
    """

    name: str
    kind: str
    model: bytes
    feeds: dict[str, Tensor]
    nodes: int
    flops: float = 0.0
    bytes: float = 0.0
    resident: float = 0.0
    others: dict[str, int] = field(default_factory=dict)


def products(width: int, depth: int, rows: Sequence[int] = (1,)) -> list[Probe]:
    """A chain of ``depth`` MatMuls with square weights of their own, over each number of rows: one graph."""
    made = _Graph()
    stream = made.declare("x", ("rows", width), "float32")
    for i in range(depth):
        stream = made.op("MatMul", (stream, made.weight(f"w{i}", (width, width))))
    made.declare(stream, ("rows", width), "float32", output=True)
    model, streamed = made.model(), float(depth * width * width * _FLOAT)
    return [
        Probe(
            f"{depth} MatMuls of {width} x {width}, {count} rows",
            "gemm",
            model,
            {"x": Tensor((count, width))},
            nodes=depth,
            flops=2.0 * depth * count * width * width,
            bytes=streamed,
            resident=streamed,
        )
        for count in rows
    ]


def starts(kind: str, op: str, count: int, width: int = 64) -> Probe:
    """A chain of ``count`` ops so small that starting them is all that they cost."""
    made = _Graph()
    stream = made.input("x", (1, 2, width))
    for i in range(count):
        stream = _LINKS[op](made, i, stream, width)
    others = {"elementwise": count} if op == "Reshape" else {}
    return made.probe(f"{count} x {op}", kind, stream, nodes=count, others=others)


def _norm(made: _Graph, i: int, x: str, width: int) -> str:
    return made.op("LayerNormalization", (x, made.weight(f"g{i}", (width,))), {"axis": -1})


def _reshape(made: _Graph, i: int, x: str, width: int) -> str:
    """There and back, with an op between that keeps onnxruntime from joining the two."""
    shape = made.integers(f"s{i % 2}", (1, 2, width) if i % 2 else (1, 2 * width))
    return made.op("Sigmoid", (made.op("Reshape", (x, shape)),))


_LINKS = {
    "Sigmoid": lambda made, _, x, __: made.op("Sigmoid", (x,)),
    "Cos": lambda made, _, x, __: made.op("Cos", (x,)),
    "Mul": lambda made, _, x, width: made.op("Mul", (x, made.input("b", (1, 2, width)))),
    "LayerNormalization": _norm,
    "Reshape": _reshape,
}


def attention(heads: int, kv_heads: int, width: int, cached: int, count: int = 4) -> Probe:
    """``count`` GroupQueryAttentions, each over a cache of its own that holds ``cached`` tokens."""
    made, capacity = _Graph(), cached + 64
    stream = made.input("x", (1, 1, heads * width))
    made.feeds["past"] = Tensor((1,), "int32", (cached,))
    made.feeds["total"] = Tensor((), "int32", (cached + 1,))
    for i in range(count):
        key, value = (made.input(f"{n}{i}", (1, 1, kv_heads * width)) for n in "kv")
        stream = _attended(made, i, (stream, key, value), heads, kv_heads, (1, kv_heads, capacity, width))
    total = cached + 1
    streamed = float(count * 2 * kv_heads * width * total * _FLOAT)
    return made.probe(
        f"{count} GroupQueryAttentions, {heads} heads on {kv_heads} of {width}, {cached} tokens",
        "attention",
        stream,
        nodes=count,
        flops=4.0 * count * heads * width * total,
        bytes=streamed,
        resident=streamed,
    )


def _attended(
    made: _Graph, i: int, qkv: tuple[str, str, str], heads: int, kv_heads: int, cache: tuple[int, ...]
) -> str:
    pasts = []
    for name in ("key", "value"):
        made.feeds[f"past.{i}.{name}"] = Tensor(cache, written_by=f"present.{i}.{name}")
        pasts.append(f"past.{i}.{name}")
    presents = [f"present.{i}.{name}" for name in ("key", "value")]
    made.outputs.extend(presents)
    return made.op(
        "GroupQueryAttention",
        (*qkv, *pasts, "past", "total"),
        {"num_heads": heads, "kv_num_heads": kv_heads},
        more=presents,
    )


def experts(hidden: int, inner: int, of: int, chosen: int, rows: int, depth: int) -> Probe:
    """A chain of mixtures of ``of`` experts, whose rows choose different ones as far as there are."""
    made = _Graph()
    stream = made.input("x", (rows, hidden))
    scores = np.zeros((rows, of), np.float32)
    for row in range(rows):
        scores[row, [(row * chosen + k) % of for k in range(chosen)]] = 8.0
    made.tensor("scores", scores)
    for i in range(depth):
        up = made.weight(f"u{i}", (of, 2 * inner, hidden))
        down = made.weight(f"d{i}", (of, hidden, inner))
        stream = made.op("MoE", (stream, "scores", up, "", down), _swiglu(chosen))
    each = 3.0 * hidden * inner
    distinct = min(of, rows * chosen)
    told = f"{rows} rows choose {chosen}, {distinct} distinct"
    return made.probe(
        f"{depth} MoEs of {of} experts of {hidden} x {inner}, {told}",
        "moe",
        stream,
        nodes=depth,
        flops=2.0 * depth * rows * chosen * each,
        bytes=depth * distinct * each * _FLOAT,
        resident=depth * of * each * _FLOAT,
    )


def _swiglu(chosen: int) -> dict[str, int | float | str]:
    return {
        "k": chosen,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "normalize_routing_weights": 1,
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
    }


def decoder(layers: int, hidden: int = 64, vocabulary: int = 256) -> bytes:
    """A decoder that runs: attention over a cache in place and an FFN in each layer, and a head."""
    made, heads = _Graph(), 2
    width, tokens = hidden // heads, ("batch", "new")
    made.declare("input_ids", tokens, "int64")
    made.declare("seqlens_k", ("batch",), "int32")
    made.declare("total_sequence_length", (), "int32")
    stream = made.op("Gather", (made.weight("embed", (vocabulary, hidden)), "input_ids"))
    for i in range(layers):
        normed = _norm(made, 2 * i, stream, hidden)
        qkv = [made.op("MatMul", (normed, made.weight(f"{n}{i}", (hidden, hidden)))) for n in "qkv"]
        pasts, presents = [], []
        for name in ("key", "value"):
            cache = ("batch", heads, "max_tokens", width)
            pasts.append(made.declare(f"past.{i}.{name}", cache, "float32"))
            presents.append(made.declare(f"present.{i}.{name}", cache, "float32", output=True))
        attended = made.op(
            "GroupQueryAttention",
            (*qkv, *pasts, "seqlens_k", "total_sequence_length"),
            {"num_heads": heads, "kv_num_heads": heads},
            more=presents,
        )
        out = made.op("MatMul", (attended, made.weight(f"o{i}", (hidden, hidden))))
        stream = made.op("Add", (stream, out))
        normed = _norm(made, 2 * i + 1, stream, hidden)
        inner = made.op("Sigmoid", (made.op("MatMul", (normed, made.weight(f"a{i}", (hidden, 4 * hidden)))),))
        stream = made.op(
            "Add", (stream, made.op("MatMul", (inner, made.weight(f"b{i}", (4 * hidden, hidden)))))
        )
    made.declare("logits", (*tokens, vocabulary), "float32", output=True)
    made.op("MatMul", (stream, made.weight("head", (hidden, vocabulary))), to="logits")
    return made.model()


class _Graph:
    """What has been made of a graph so far."""

    def __init__(self) -> None:
        self.feeds: dict[str, Tensor] = {}
        self.outputs: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._declared: list[onnx.ValueInfoProto] = []
        self._results: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> str:
        """An input of fixed extents, which the probe is fed with."""
        self.feeds[name] = Tensor(shape, dtype)
        return name

    def declare(self, name: str, shape: Dims, dtype: str, output: bool = False) -> str:
        """An input or output of a model that somebody else feeds."""
        made = helper.make_tensor_value_info(name, _TYPES[dtype], shape)
        (self._results if output else self._declared).append(made)
        return name

    def weight(self, name: str, shape: tuple[int, ...]) -> str:
        """Arbitrary weights of unit variance over their rows."""
        if name not in self._weights:
            rows = shape[-2] if len(shape) > 1 else 1
            block = np.random.default_rng(len(self._weights)).standard_normal(_BLOCK, dtype=np.float32)
            self.tensor(name, np.resize(block / math.sqrt(rows), shape))
        return name

    def integers(self, name: str, values: Sequence[int]) -> str:
        """A constant vector of int64."""
        return self.tensor(name, np.array(values, np.int64))

    def tensor(self, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        """A constant."""
        self._weights[name] = numpy_helper.from_array(array, name)
        return name

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        attributes: Mapping[str, int | float | str] = _NONE,
        more: Sequence[str] = (),
        to: str = "",
    ) -> str:
        """A node; the name of its first output."""
        name = to or f"t{len(self._nodes)}"
        domain = MICROSOFT if kind in ("GroupQueryAttention", "MoE") else ""
        node = helper.make_node(kind, inputs, [name, *more], domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(node)
        return name

    def probe(self, name: str, kind: str, result: str, **amounts: object) -> Probe:
        """The graph as a probe whose last value is ``result``."""
        for feed, tensor in self.feeds.items():
            self.declare(feed, tensor.shape, tensor.dtype)
        for output in (result, *self.outputs):
            self._results.append(helper.make_empty_tensor_value_info(output))
            self._results[-1].type.tensor_type.elem_type = TensorProto.FLOAT
        return Probe(name, kind, self.model(), dict(self.feeds), **amounts)  # type: ignore[arg-type]

    def model(self) -> bytes:
        """The file."""
        graph = helper.make_graph(
            self._nodes, "probe", self._declared, self._results, list(self._weights.values())
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS]
        made = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)
        return bytes(made.SerializeToString(deterministic=True))


_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}
