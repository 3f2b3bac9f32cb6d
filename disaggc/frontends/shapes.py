"""Types of values that an exporter left undeclared, by onnx-shape-inference.

Only the nodes whose outputs nobody declared are inferred, with the integer arithmetic that their
shapes hang on: a graph of 180,000 nodes that lacks 188 types costs 188 nodes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping

import onnx
import onnx_ir
import onnx_shape_inference

Typed = Mapping[str, onnx.ValueInfoProto]


def infer_missing(model: onnx.ModelProto, declared: Typed) -> list[onnx.ValueInfoProto]:
    """Types of values that ``model`` does not declare (or declares with unknown extents).

    Args:
        model: Nodes in topological order. Not changed.
        declared: What ``declared_types(model)`` returned.

    Returns:
        What could be inferred, by value; the rest has no entry.
    """
    missing = [i for i, node in enumerate(model.graph.node) if _lacks(node, declared)]
    if not missing:
        return []
    excerpt = _excerpt(model, _with_shape_arithmetic(model, missing, declared), declared)
    wanted = {name for i in missing for name in model.graph.node[i].output}
    try:
        typed = _inferred(excerpt).graph
    except onnx_ir.serde.SerdeError:  # a value without a type costs accuracy; what is broken is refused later
        return []
    return [v for v in (*typed.value_info, *typed.output) if v.name in wanted and _complete(v)]


def _inferred(excerpt: onnx.ModelProto) -> onnx.ModelProto:
    for noisy in ("onnx_ir", "onnx_shape_inference"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    model = onnx_ir.from_proto(excerpt)
    onnx_shape_inference.infer_symbolic_shapes(model, warn_on_missing=False)
    return onnx_ir.to_proto(model)


def declared_types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Every type that the file declares, by value."""
    graph = model.graph
    return {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}


def _lacks(node: onnx.NodeProto, declared: Typed) -> bool:
    if node.op_type == "Constant" and not node.domain:
        return False
    return any(name and not _complete(declared.get(name)) for name in node.output)


def _complete(value: onnx.ValueInfoProto | None) -> bool:
    return value is not None and _is_complete(value.type.SerializeToString(deterministic=True))


@functools.lru_cache(maxsize=65536)
def _is_complete(spelling: bytes) -> bool:
    """Whether a serialised type says all; large graphs repeat few types."""
    kind = onnx.TypeProto.FromString(spelling)
    if not kind.HasField("tensor_type"):
        return kind.WhichOneof("value") is not None
    tensor = kind.tensor_type
    return tensor.HasField("shape") and all(
        d.HasField("dim_value") or (d.dim_param and "?" not in d.dim_param) for d in tensor.shape.dim
    )


def _with_shape_arithmetic(model: onnx.ModelProto, nodes: list[int], declared: Typed) -> list[int]:
    """The nodes, with every integer computation that they read, transitively."""
    writer = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
    wanted = set(nodes)
    frontier = list(nodes)
    while frontier:
        for name in model.graph.node[frontier.pop()].input:
            maker = writer.get(name)
            if maker is not None and maker not in wanted and _is_shape_data(declared.get(name)):
                wanted.add(maker)
                frontier.append(maker)
    return sorted(wanted)


def _is_shape_data(value: onnx.ValueInfoProto | None) -> bool:
    if value is None:
        return True
    tensor = value.type.tensor_type
    return tensor.elem_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) and len(tensor.shape.dim) <= 1


def _excerpt(model: onnx.ModelProto, nodes: Iterable[int], declared: Typed) -> onnx.ModelProto:
    """A model of just these nodes; what they read from outside becomes inputs of declared type."""
    graph = onnx.GraphProto(name="excerpt")
    graph.node.extend(model.graph.node[i] for i in nodes)
    written = {name for node in graph.node for name in node.output if name}
    read = {name for node in graph.node for name in node.input if name}
    graph.initializer.extend(t for t in model.graph.initializer if t.name in read)
    constants = {t.name for t in graph.initializer}
    graph.input.extend(declared[n] for n in sorted(read - written - constants) if n in declared)
    graph.value_info.extend(declared[n] for n in sorted(written) if n in declared)
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in sorted(written))
    excerpt = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    excerpt.opset_import.extend(model.opset_import)
    excerpt.functions.extend(model.functions)
    return excerpt
