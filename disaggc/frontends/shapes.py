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

Typed = Mapping[str, bytes]
"""Value to its serialised type: large graphs repeat few types, so each is understood once."""


def infer_missing(model: onnx.ModelProto, declared: Typed) -> dict[str, bytes]:
    """Types of values that ``model`` does not declare (or declares with unknown extents).

    Args:
        model: Nodes in topological order. Not changed.
        declared: What ``declared_types(model)`` returned.

    Returns:
        What could be inferred, by value; the rest has no entry.
    """
    complete = {"", *(name for name, spelling in declared.items() if _is_complete(spelling))}
    missing = [i for i, n in enumerate(model.graph.node) if not complete.issuperset(n.output)]
    missing = [i for i in missing if not _is_constant(model.graph.node[i])]
    if not missing:
        return {}
    excerpt = _excerpt(model, _with_shape_arithmetic(model, missing, declared), declared)
    wanted = {name for i in missing for name in model.graph.node[i].output}
    try:
        typed = declared_types(_inferred(excerpt))
    except Exception:  # noqa: BLE001 - of another library: a value without a type costs accuracy, no more
        typed = declared_types(_second_opinion(excerpt))
    return {name: typed[name] for name in typed if name in wanted and _is_complete(typed[name])}


def _inferred(excerpt: onnx.ModelProto) -> onnx.ModelProto:
    for noisy in ("onnx_ir", "onnx_shape_inference"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    model = onnx_ir.from_proto(excerpt)
    onnx_shape_inference.infer_symbolic_shapes(model, warn_on_missing=False)
    return onnx_ir.to_proto(model)


def _second_opinion(excerpt: onnx.ModelProto) -> onnx.ModelProto:
    """What onnx's own inference says, which stops at the first op that it does not know."""
    try:
        return onnx.shape_inference.infer_shapes(excerpt, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return excerpt


def declared_types(model: onnx.ModelProto) -> dict[str, bytes]:
    """Every type that the file declares, serialised, by value."""
    graph = model.graph
    infos = (*graph.value_info, *graph.input, *graph.output)
    return {info.name: info.type.SerializeToString(deterministic=True) for info in infos}


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and not node.domain


@functools.lru_cache(maxsize=65536)
def _is_complete(spelling: bytes) -> bool:
    """Whether a serialised type says all; large graphs repeat few types."""
    kind = onnx.TypeProto.FromString(spelling)
    if not kind.HasField("tensor_type"):
        return kind.WhichOneof("value") is not None
    tensor = kind.tensor_type
    return tensor.HasField("shape") and all(
        (d.HasField("dim_value") and d.dim_value >= 0) or (d.dim_param and "?" not in d.dim_param)
        for d in tensor.shape.dim
    )


def _with_shape_arithmetic(model: onnx.ModelProto, nodes: list[int], declared: Typed) -> list[int]:
    """The nodes, with every integer computation that they read, transitively."""
    wanted = set(nodes)
    needed: set[str] = set()
    for i in range(max(nodes), -1, -1):
        node = model.graph.node[i]
        if i in wanted or not needed.isdisjoint(node.output):
            wanted.add(i)
            needed.update(name for name in node.input if name and _is_shape_data(declared.get(name)))
    return sorted(wanted)


def _is_shape_data(spelling: bytes | None) -> bool:
    if spelling is None:
        return True
    tensor = onnx.TypeProto.FromString(spelling).tensor_type
    return tensor.elem_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) and len(tensor.shape.dim) <= 1


def _excerpt(model: onnx.ModelProto, nodes: Iterable[int], declared: Typed) -> onnx.ModelProto:
    """A model of just these nodes; what they read from outside becomes inputs of declared type."""
    graph = onnx.GraphProto(name="excerpt")
    graph.node.extend(model.graph.node[i] for i in nodes)
    written = {name for node in graph.node for name in node.output if name}
    read = {name for node in graph.node for name in node.input if name}
    graph.initializer.extend(t for t in model.graph.initializer if t.name in read)
    constants = {t.name for t in graph.initializer}
    graph.input.extend(_info(n, declared) for n in sorted(read - written - constants) if n in declared)
    graph.value_info.extend(_info(n, declared) for n in sorted(written) if n in declared)
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in sorted(written))
    excerpt = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    excerpt.opset_import.extend(model.opset_import)
    excerpt.functions.extend(model.functions)
    return excerpt


def _info(name: str, declared: Typed) -> onnx.ValueInfoProto:
    info = onnx.ValueInfoProto(name=name, type=onnx.TypeProto.FromString(declared[name]))
    for dim in info.type.tensor_type.shape.dim:
        if "?" in dim.dim_param or dim.dim_value < 0:  # how some exporters write that they do not know
            dim.Clear()
    return info
