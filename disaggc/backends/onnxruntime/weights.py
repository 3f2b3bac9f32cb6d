"""References a model's weights from its subgraphs, in place.

A weight that is external already keeps its file, offset and length. One that is embedded in the
model file is referenced there, at the offset of its raw bytes: to a subgraph the model file is a
weight file like any other. What has no bytes of its own (varints), is tiny, or is a shape in the
making is copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from disaggc.backends.onnxruntime.wire import Span, embedded_weights
from disaggc.ir import DType

TABLE = "subgraphs/weights.json"

_TINY = 1024
"""Tensors of up to this many bytes are copied into each part."""

_SHAPE_LIKE = 64 * 1024
"""Integer tensors of up to this many bytes are structure (axes, shapes, indices), not weights."""

_INTEGERS = frozenset({onnx.TensorProto.INT64, onnx.TensorProto.INT32})


@dataclass(frozen=True, slots=True)
class Source:
    """A model and the file it was read from, ``load_external_data=False``."""

    model: onnx.ModelProto
    path: Path

    def embedded(self) -> dict[str, Span]:
        """Where embedded weights lie in the file; empty if none is worth referencing."""
        worth = any(not _is_external(t) and not _is_inline(t) for t in self.model.graph.initializer)
        return embedded_weights(self.path) if worth else {}


class Weights:
    """The initializers of a model, as its subgraphs state them."""

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self._source = Source(model, path)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    @cached_property
    def _embedded(self) -> dict[str, Span]:
        return self._source.embedded()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def reference(self, name: str) -> onnx.TensorProto:
        """The tensor as a subgraph states it: external wherever its bytes can be referenced."""
        tensor = self._tensors[name]
        if _is_external(tensor):
            return external(tensor, *declared_place(tensor))
        span = None if _is_inline(tensor) else self._embedded.get(name)
        if span is None or span.length != _nbytes(tensor):
            return _inline(tensor)
        return external(tensor, self._source.path.name, span)


def table(parts: Mapping[str, onnx.ModelProto]) -> str:
    """The text of weights.json: part to initializer to file, offset, length, dtype and shape.

    The runtime checks it before it opens a part, so that it can name a missing file; one line a
    weight, sorted, so that equal models give equal bytes.
    """
    rows = {path: _part_rows(model) for path, model in sorted(parts.items())}
    body = ",\n".join(f"  {json.dumps(path)}: {{{_lines(part)}}}" for path, part in rows.items())
    return f'{{"format": "disaggc.weights", "version": 1, "parts": {{\n{body}\n}}}}\n'


def _lines(rows: list[str]) -> str:
    return "\n    " + ",\n    ".join(rows) + "\n  " if rows else ""


def _part_rows(model: onnx.ModelProto) -> list[str]:
    external = [tensor for tensor in model.graph.initializer if _is_external(tensor)]
    return [f"{json.dumps(t.name)}: {_row(t)}" for t in sorted(external, key=lambda t: t.name)]


def _row(tensor: onnx.TensorProto) -> str:
    file, span = declared_place(tensor)
    row = {
        "file": file,
        "offset": span.offset,
        "length": span.length,
        "dtype": _dtype(tensor).label,
        "shape": list(tensor.dims),
    }
    return json.dumps(row)


def declared_place(tensor: onnx.TensorProto) -> tuple[str, Span]:
    """The file of an external tensor, and its bytes there."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = int(entries.get("length", _nbytes(tensor)))
    return entries["location"], Span(int(entries.get("offset", 0)), length)


def external(tensor: onnx.TensorProto, location: str, span: Span) -> onnx.TensorProto:
    """A tensor of the same name, type and extents whose elements are bytes of a file."""
    reference = onnx.TensorProto(
        name=tensor.name,
        data_type=tensor.data_type,
        dims=tensor.dims,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("offset", span.offset), ("length", span.length)):
        reference.external_data.add(key=key, value=str(value))
    return reference


def run_of(
    tensor: onnx.TensorProto, elements: range, dims: Sequence[int], name: str
) -> onnx.TensorProto | None:
    """Some elements of a tensor as a tensor of its own, where the same bytes are its elements.

    Args:
        tensor: As a subgraph states it.
        elements: Which, counted in the order in which they are stored.
        dims: The extents of those.
        name: What to call them.

    Returns:
        A reference if the tensor is one, a copy if its bytes are within it; None if its elements begin or end
        within a byte, or are not stored as bytes.
    """
    bits = _dtype(tensor).bits
    if elements.start * bits % 8 or elements.stop * bits % 8:
        return None
    start, stop = elements.start * bits // 8, elements.stop * bits // 8
    shaped = onnx.TensorProto(name=name, data_type=tensor.data_type, dims=dims)
    if _is_external(tensor):
        file, span = declared_place(tensor)
        return external(shaped, file, Span(span.offset + start, stop - start))
    if not tensor.raw_data:
        return None
    shaped.raw_data = tensor.raw_data[start:stop]
    return shaped


def _inline(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("doc_string")
    copy.ClearField("metadata_props")
    return copy


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _is_inline(tensor: onnx.TensorProto) -> bool:
    limit = _SHAPE_LIKE if tensor.data_type in _INTEGERS else _TINY
    return tensor.data_type == onnx.TensorProto.STRING or _nbytes(tensor) <= limit


def _nbytes(tensor: onnx.TensorProto) -> int:
    count = _dtype(tensor).bits
    for dim in tensor.dims:
        count *= dim
    return (count + 7) // 8


def _dtype(tensor: onnx.TensorProto) -> DType:
    return DType[onnx.TensorProto.DataType.Name(tensor.data_type)]
