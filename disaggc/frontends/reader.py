"""From the protobuf to a ``Graph``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper

from disaggc.frontends.door import captured, open_model
from disaggc.frontends.shapes import declared_types, infer_missing
from disaggc.ir import DType, Graph, Node, Value, Weight, WeightFile, verify
from disaggc.ir.graph import Attribute

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
SMALL = 64
"""Integer constants of at most this many elements are structure (axes, shapes, k): their values are kept."""

_NONE: MappingProxyType[str, Attribute] = MappingProxyType({})


def read_graph(path: Path, model: onnx.ModelProto | None = None) -> Graph:
    """Read an ONNX model; weights are declared, never loaded.

    Args:
        path: The .onnx file.
        model: What ``open_model(path)`` returned, if the caller has it already.

    Raises:
        ModelError: The file cannot be read, is no ONNX model, or contradicts itself.
    """
    model = model if model is not None else open_model(path)
    weights = {w.name: w for w in map(_weight, model.graph.initializer)}
    nodes = tuple(map(_node, model.graph.node))
    weights.update((w.name, w) for w in _constants(model))
    inputs = tuple(i.name for i in model.graph.input if i.name not in weights)
    graph = Graph(
        name=path.stem,
        source=path,
        nodes=nodes,
        values=MappingProxyType(_values(model)),
        weights=MappingProxyType(weights),
        inputs=inputs,
        outputs=tuple(o.name for o in model.graph.output),
        opsets=MappingProxyType({o.domain or "ai.onnx": o.version for o in model.opset_import}),
        warnings=tuple(_warnings(nodes)),
    )
    verify(graph)
    return graph


def _values(model: onnx.ModelProto) -> dict[str, Value]:
    typed = declared_types(model) | {v.name: v for v in infer_missing(model)}
    values = {name: _value(info) for name, info in typed.items()}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in values:
                values[name] = Value(name, None, None)
    return values


def _value(info: onnx.ValueInfoProto) -> Value:
    tensor = info.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or f"?{info.name}.{i}"
            for i, d in enumerate(tensor.shape.dim)
        )
    return Value(info.name, _dtype(tensor.elem_type), shape)


def _dtype(code: int) -> DType | None:
    return DType[TensorProto.DataType.Name(code)] if code else None


def _weight(tensor: TensorProto) -> Weight:
    dtype = DType[TensorProto.DataType.Name(tensor.data_type)]
    file = None
    if tensor.data_location == TensorProto.EXTERNAL:
        entries = {e.key: e.value for e in tensor.external_data}
        length = entries.get("length")
        file = WeightFile(entries.get("location", ""), int(entries.get("offset", 0)), int(length) if length else None)
    return Weight(tensor.name, dtype, tuple(tensor.dims), file, _integers(tensor, dtype))


def _integers(tensor: TensorProto, dtype: DType) -> tuple[int, ...] | None:
    if dtype not in (DType.INT64, DType.INT32) or tensor.data_location == TensorProto.EXTERNAL:
        return None
    if int(np.prod(tensor.dims)) > SMALL:
        return None
    return tuple(int(i) for i in numpy_helper.to_array(tensor).reshape(-1))


def _constants(model: onnx.ModelProto) -> Iterator[Weight]:
    """What Constant nodes hold is a weight like any other."""
    for node in model.graph.node:
        if node.op_type != "Constant" or node.domain or not node.attribute:
            continue
        attribute = node.attribute[0]
        if attribute.name == "value":
            tensor = attribute.t
        elif attribute.name.startswith("value_") and "string" not in attribute.name:
            held = np.asarray(onnx.helper.get_attribute_value(attribute))
            floating = held.dtype.kind == "f"
            tensor = numpy_helper.from_array(held.astype(np.float32 if floating else np.int64))
        else:
            continue
        named = TensorProto()
        named.CopyFrom(tensor)
        named.name = node.output[0]
        yield _weight(named)


def _node(node: NodeProto) -> Node:
    attributes = {a.name: v for a in node.attribute if (v := _attribute(a)) is not None}
    return Node(
        node.name,
        node.op_type,
        "" if node.domain == "ai.onnx" else node.domain,
        tuple(node.input),
        tuple(node.output),
        MappingProxyType(attributes) if attributes else _NONE,
        tuple(captured(node)) if node.attribute else (),
    )


def _attribute(attribute: AttributeProto) -> Attribute | None:
    match attribute.type:
        case AttributeProto.INT:
            return attribute.i
        case AttributeProto.FLOAT:
            return attribute.f
        case AttributeProto.STRING:
            return attribute.s.decode("utf-8", "replace")
        case AttributeProto.INTS:
            return tuple(attribute.ints)
        case AttributeProto.FLOATS:
            return tuple(attribute.floats)
    return None


def _warnings(nodes: tuple[Node, ...]) -> Iterator[str]:
    foreign: dict[str, int] = {}
    for node in nodes:
        if node.domain not in STANDARD_DOMAINS:
            foreign[node.kind] = foreign.get(node.kind, 0) + 1
    for kind, count in sorted(foreign.items()):
        domain = kind.partition("::")[0]
        yield (
            f"Unknown op domain '{domain}': {count} x {kind} is placed and priced by the bytes it reads and "
            f"writes. Declare its cost in passes/costs/*.toml."
        )
