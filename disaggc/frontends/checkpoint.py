"""Where the tensors of a checkpoint lie: the headers of its safetensors files, and no weight byte.

A safetensors file is eight bytes of length (little endian), that much JSON
(``{name: {dtype, shape, data_offsets}}``), and the data, which offsets count from
(https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto

from disaggc.errors import WeightsError

_LENGTH = struct.Struct("<Q")
_LONGEST = 100_000_000
"""Bytes of a header at most, as the format's own reader has it."""
_DTYPES = {
    "F64": TensorProto.DOUBLE,
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "F8_E4M3": TensorProto.FLOAT8E4M3FN,
    "F8_E5M2": TensorProto.FLOAT8E5M2,
    "I64": TensorProto.INT64,
    "I32": TensorProto.INT32,
    "I8": TensorProto.INT8,
    "U8": TensorProto.UINT8,
    "BOOL": TensorProto.BOOL,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a checkpoint.

    Attributes:
        file: The safetensors file.
        offset, length: Its bytes in that file.
        dtype: Of ``onnx.TensorProto``; None for one that ONNX does not have.
        shape: Its extents.
    """

    file: Path
    offset: int
    length: int
    dtype: int | None
    shape: tuple[int, ...]


def read_checkpoint(folder: Path) -> dict[str, Stored]:
    """Every tensor of the safetensors files in a folder, by name.

    Raises:
        WeightsError: There are none, or a file is no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise WeightsError(f"'{folder}' holds no .safetensors file. Name the checkpoint's folder.")
    return {name: tensor for file in files for name, tensor in _header(file).items()}


def _header(file: Path) -> dict[str, Stored]:
    size = file.stat().st_size
    with file.open("rb") as data:
        start = data.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else _LONGEST
        if length >= min(size, _LONGEST):
            raise _broken(file, "its header is longer than the file")
        text = data.read(length)
    try:
        rows: dict[str, Any] = json.loads(text)
        rows.pop("__metadata__", None)
        return {name: _stored(file, _LENGTH.size + length, row, size) for name, row in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(file, f"its header does not read ({error})") from error


def _stored(file: Path, base: int, row: dict[str, Any], size: int) -> Stored:
    first, last = row["data_offsets"]
    if not 0 <= first <= last <= size - base:
        raise ValueError(f"bytes {first} to {last} lie outside the file")
    return Stored(file, base + first, last - first, _DTYPES.get(row["dtype"]), tuple(row["shape"]))


def _broken(file: Path, why: str) -> WeightsError:
    return WeightsError(f"'{file.name}' is no safetensors file: {why}. Fetch it again.")
