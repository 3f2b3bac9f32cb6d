"""Writes the parts of a model as ONNX files of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from disaggc.backends.onnxruntime.making import making
from disaggc.backends.onnxruntime.parts import Part, is_constant, reads
from disaggc.backends.onnxruntime.value_types import types_of
from disaggc.backends.onnxruntime.weights import TABLE, Weights, table

_LEAST_IR = 4
"""Before IR version 4 every initializer had to be a graph input, too."""


def write_subgraphs(
    source: onnx.ModelProto,
    source_path: Path,
    parts: Sequence[Part],
    folder: Path,
    types: Mapping[str, onnx.TypeProto] | None = None,
) -> dict[str, str]:
    """Write one ONNX file a part, and ``subgraphs/weights.json``; see ``subgraphs`` and ``write_models``."""
    return write_models(subgraphs(source, source_path, parts, types), folder)


def subgraphs(
    source: onnx.ModelProto,
    source_path: Path,
    parts: Sequence[Part],
    types: Mapping[str, onnx.TypeProto] | None = None,
) -> dict[str, onnx.ModelProto]:
    """One model a part, by its path.

    Args:
        source: The model, read with ``load_external_data=False``.
        source_path: The file it was read from; subgraphs refer to it by its bare name.
        parts: What to write.
        types: Types of values that cross, where the caller knows more than the model declares.

    Raises:
        GraphError: A value that crosses has no known element type.
        NotOnnxError: The model file is truncated.
    """
    crossing = [name for part in parts for name in (*part.inputs, *part.outputs)]
    known = types_of(crossing, source, types or {})
    weights = Weights(source, source_path)
    constants = {node.output[0]: node for node in source.graph.node if is_constant(node)}
    return {part.path: _model(source, part, weights, constants, known) for part in parts}


def write_models(models: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, str]:
    """Write subgraphs, and the table of their weights; equal input gives equal bytes.

    Args:
        models: By path relative to ``folder``.
        folder: The plan folder; missing folders below it are made.

    Returns:
        Path relative to ``folder`` to the SHA-256 of each file written.
    """
    files = {path: model.SerializeToString(deterministic=True) for path, model in models.items()}
    files[TABLE] = table(models).encode()
    for path, data in files.items():
        _write(folder / path, data)
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _model(
    source: onnx.ModelProto,
    part: Part,
    weights: Weights,
    constants: Mapping[str, onnx.NodeProto],
    types: Mapping[str, onnx.TypeProto],
) -> onnx.ModelProto:
    found = (part.rewritten.get(i, source.graph.node[i]) for i in part.nodes)
    own = [node for node in found if not is_constant(node)]
    used = dict.fromkeys([*(name for node in own for name in reads(node)), *part.outputs])
    nodes = [_bare(node) for node in [*(constants[name] for name in used if name in constants), *own]]
    model = onnx.ModelProto(ir_version=max(source.ir_version, _LEAST_IR), producer_name="disaggc")
    model.opset_import.extend(source.opset_import)
    model.functions.extend(_functions(source, nodes))
    graph = model.graph
    graph.name = Path(part.path).stem
    graph.node.extend(node for made in part.made for node in making(made))
    graph.node.extend(nodes)
    graph.input.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in part.inputs)
    graph.output.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in part.outputs)
    graph.initializer.extend(weights.reference(name) for name in used if name in weights)
    graph.sparse_initializer.extend(t for t in source.graph.sparse_initializer if t.values.name in used)
    return model


def _bare(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy without what an exporter noted on it: stack traces hold paths of its machine."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    _strip(copy)
    return copy


def _strip(node: onnx.NodeProto) -> None:
    for field in ("doc_string", "metadata_props", "device_configurations"):
        node.ClearField(field)
    for body in _bodies(node):
        body.ClearField("metadata_props")
        for inner in body.node:
            _strip(inner)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _functions(source: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.FunctionProto]:
    """The model's functions that the nodes call, those they call in turn included."""
    known = {(f.domain, f.name, f.overload): f for f in source.functions}
    called: set[tuple[str, str, str]] = set()
    todo = list(nodes) if known else []
    while todo:
        node = todo.pop()
        key = (node.domain, node.op_type, node.overload)
        todo.extend(inner for body in _bodies(node) for inner in body.node)
        if key in known and key not in called:
            called.add(key)
            todo.extend(known[key].node)
    for key, function in known.items():
        if key in called:
            yield _bare_function(function)


def _bare_function(function: onnx.FunctionProto) -> onnx.FunctionProto:
    copy = onnx.FunctionProto()
    copy.CopyFrom(function)
    copy.ClearField("doc_string")
    copy.ClearField("metadata_props")
    for node in copy.node:
        _strip(node)
    return copy
