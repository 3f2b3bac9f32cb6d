"""Bodies of If, Loop and Scan as models of their own, so that they are read like any other.

What a body captures of the outer graph becomes its input, or its weight; what it does not declare of
its own inputs is what the node is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    numpy_helper,
)

from disaggc.frontends.door import captured
from disaggc.frontends.shapes import Typed


def is_control(node: NodeProto) -> bool:
    """Whether an op runs bodies."""
    return node.op_type in _CONTROL


_CONTROL = frozenset(("If", "Loop", "Scan", "SequenceMap"))


def body_model(
    model: ModelProto, node: NodeProto, body: GraphProto, types: Typed, weights: Mapping[str, TensorProto]
) -> ModelProto:
    """A model of one body.

    Args:
        model: What the node is in.
        node: An If, Loop or Scan.
        body: One of its bodies.
        types: Serialised types of the outer values.
        weights: Initializers and constants of the outer graph; large ones are referred to, not copied.
    """
    found = ModelProto(ir_version=model.ir_version)
    found.opset_import.extend(model.opset_import)
    found.functions.extend(model.functions)
    found.graph.CopyFrom(body)
    for value, given in zip(found.graph.input, _given(node), strict=False):
        if not value.HasField("type") and given in types:
            value.type.CopyFrom(TypeProto.FromString(types[given]))
    own = NodeProto(attribute=[AttributeProto(name="body", type=AttributeProto.GRAPH, g=body)])
    for name in captured(own):
        if name in weights:
            found.graph.initializer.append(_reference(weights[name], name))
        else:
            spelled = TypeProto.FromString(types[name]) if name in types else TypeProto()
            found.graph.input.append(ValueInfoProto(name=name, type=spelled))
    return found


def carried_types(model: ModelProto, types: Typed) -> dict[str, bytes]:
    """Types of what Loops and Scans carry, which end as they began, where nothing else tells them."""
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Loop", "Scan") and node.attribute:
            begun = [name for name in _given(node) if name]
            pairs = zip(node.output, begun, strict=False)
            found.update({out: types[name] for out, name in pairs if out not in types and name in types})
    return found


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant tensor of a graph under its own name: initializers, and what Constant nodes hold."""
    yield from model.graph.initializer
    for node in model.graph.node:
        tensor = constant(node)
        if tensor is not None:
            named = TensorProto()
            named.CopyFrom(tensor)
            named.name = node.output[0]
            yield named


def constant(node: NodeProto) -> TensorProto | None:
    """The tensor that a node holds; None if it is no Constant, or holds text or a sparse tensor."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute:
        return None
    attribute = node.attribute[0]
    match attribute.name:
        case "value":
            held: TensorProto = attribute.t
            return held
        case "value_int":
            return numpy_helper.from_array(np.asarray(attribute.i, np.int64))
        case "value_ints":
            return numpy_helper.from_array(np.asarray(attribute.ints, np.int64))
        case "value_float":
            return numpy_helper.from_array(np.asarray(attribute.f, np.float32))
        case "value_floats":
            return numpy_helper.from_array(np.asarray(attribute.floats, np.float32))
    return None


_SMALL = 1024
"""Bytes up to which a tensor is copied with its content, which may be a shape."""


def _reference(tensor: TensorProto, name: str) -> TensorProto:
    if tensor.ByteSize() <= _SMALL:
        copy = TensorProto()
        copy.CopyFrom(tensor)
        return copy
    reference = TensorProto(
        name=name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
    )
    reference.external_data.extend(tensor.external_data)
    return reference


def _given(node: NodeProto) -> list[str]:
    """What a node gives to its body's inputs, by position; '' where nothing of the same type is given."""
    if node.op_type == "Loop":
        return ["", "", *node.input[2:]]
    if node.op_type == "Scan":
        scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
        return [*node.input[: len(node.input) - scanned], *([""] * scanned)]
    return []
