"""Finds where the bytes of embedded weights lie inside an ONNX file, without parsing tensors.

An ONNX file is protobuf: a sequence of (tag, payload), a tag being ``field << 3 | wire type``. We
walk tags and lengths only; the payload of a tensor is skipped, never read. Field numbers are those
of onnx.proto: ``ModelProto.graph`` 7, ``GraphProto.initializer`` 5, and of ``TensorProto``:
``data_type`` 2, ``float_data`` 4, ``name`` 8, ``raw_data`` 9, ``double_data`` 10.
Protobuf is little endian, and so are packed floats and ``raw_data``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from disaggc.errors import NotOnnxError

_GRAPH, _INITIALIZER, _NAME = 7, 5, 8
_PAYLOADS = frozenset({4, 9, 10})
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file: where they begin and how many they are."""

    offset: int
    length: int


def embedded_weights(path: Path) -> dict[str, Span]:
    """Where each initializer's raw bytes lie in an ONNX file.

    Tensors that are stored as varints (``int32_data`` and the like) or in several pieces have no
    such place and are left out.

    Args:
        path: An ONNX file.

    Returns:
        Initializer name to its bytes.

    Raises:
        NotOnnxError: The file ends before the model does, or is no protobuf.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return dict(_initializers(data))
        except IndexError as error:
            raise NotOnnxError(
                f"'{path.name}' ends before the model does. Fetch or export it again."
            ) from error


def _initializers(data: mmap.mmap) -> Iterator[tuple[str, Span]]:
    for field, start, end in _fields(data, 0, len(data)):
        if field == _GRAPH:
            for inner, first, last in _fields(data, start, end):
                if inner == _INITIALIZER:
                    yield from _tensor(data, first, last)


def _tensor(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[str, Span]]:
    name = ""
    payloads = []
    for field, first, last in _fields(data, start, end):
        if field == _NAME:
            name = data[first:last].decode("utf-8")
        elif field in _PAYLOADS:
            payloads.append(Span(first, last - first))
    if name and len(payloads) == 1:
        yield name, payloads[0]


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Every field between two offsets: its number, and where its payload starts and ends."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _varint(data, at)
            stop = at + length
        elif kind == _VARINT:
            stop = _varint(data, at)[1]
        elif kind in (_FIXED64, _FIXED32):
            stop = at + (8 if kind == _FIXED64 else 4)
        else:
            raise IndexError(at)
        if stop > end:
            raise IndexError(stop)
        yield tag >> 3, at, stop
        at = stop


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while byte >= 0x80:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, at + 1
