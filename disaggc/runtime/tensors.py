"""Tensors of onnxruntime by the plan's own names of element types."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from disaggc.errors import PlanError, nearest
from disaggc.runtime.engine import OrtValue

Array = np.ndarray[Any, np.dtype[Any]]

_CONTAINERS: dict[str, tuple[type[np.generic], int]] = {
    "float32": (np.float32, 1),
    "uint8": (np.uint8, 2),
    "int8": (np.int8, 3),
    "uint16": (np.uint16, 4),
    "int16": (np.int16, 5),
    "int32": (np.int32, 6),
    "int64": (np.int64, 7),
    "bool": (np.bool_, 9),
    "float16": (np.float16, 10),
    "float64": (np.float64, 11),
    "uint32": (np.uint32, 12),
    "uint64": (np.uint64, 13),
    "bfloat16": (np.uint16, 16),
    "float8_e4m3fn": (np.uint8, 17),
    "float8_e4m3fnuz": (np.uint8, 18),
    "float8_e5m2": (np.uint8, 19),
    "float8_e5m2fnuz": (np.uint8, 20),
}
"""Element type to the numpy type that holds its bits and its number in onnx.proto (TensorProto.DataType)."""

_BY_NUMBER = {number: kind for kind, number in _CONTAINERS.values()}


def container(dtype: str) -> type[np.generic]:
    """The numpy type that holds elements of ``dtype``, bit for bit.

    Raises:
        PlanError: No such element type can be fed or kept.
    """
    if dtype not in _CONTAINERS:
        raise PlanError(f"The runtime holds no tensors of '{dtype}'.{nearest(dtype, _CONTAINERS)}")
    return _CONTAINERS[dtype][0]


def zeros(shape: Sequence[int], dtype: str) -> OrtValue:
    """A tensor of zeros. Its memory is touched, page by page, only as it is written."""
    array = np.zeros(shape, container(dtype))
    return OrtValue.ortvalue_from_numpy_with_onnx_type(array, _CONTAINERS[dtype][1])


def wrap(array: Array) -> OrtValue:
    """The tensor over an array's own memory, which it keeps alive."""
    return OrtValue.ortvalue_from_numpy(array)


def view(value: OrtValue) -> Array:
    """A tensor's memory in the numpy type that holds its bits; valid as long as the tensor is."""
    number = value.element_type()
    if number not in _BY_NUMBER:
        raise PlanError(f"The runtime moves no tensors of '{value.data_type()}'. Compile the plan again.")
    shape = tuple(value.shape())
    if not prod(shape):
        return np.empty(shape, _BY_NUMBER[number])
    memory = (ctypes.c_uint8 * nbytes(value)).from_address(value.data_ptr())
    return np.frombuffer(memoryview(memory), _BY_NUMBER[number]).reshape(shape)


def as_type(array: Array, number: int) -> OrtValue:
    """The tensor over an array's own memory, of the element type with this number in onnx.proto."""
    return OrtValue.ortvalue_from_numpy_with_onnx_type(array, number)


def over(memory: Array, shape: Sequence[int], number: int) -> OrtValue:
    """The tensor over bytes of memory [nbytes], of the element type with this number in onnx.proto."""
    return as_type(memory.view(_BY_NUMBER[number]).reshape(shape), number)


def blank(shape: Sequence[int], number: int) -> tuple[Array, OrtValue]:
    """A tensor to be filled, as an array and as what onnxruntime reads, over one memory."""
    array = np.empty(shape, _BY_NUMBER[number])
    return array, as_type(array, number)


def same(a: Sequence[OrtValue], b: Sequence[OrtValue]) -> bool:
    """Whether two sequences hold the very same tensors."""
    if a is b:
        return True
    if len(a) != len(b):
        return False
    return all(map(operator.is_, a, b))


def flat(array: Array) -> Array:
    """An array's memory as bytes [nbytes]; it must be contiguous."""
    return array.reshape(-1).view(np.uint8)


class LastRows:
    """Reads the last token's row of each request off the logits, step after step."""

    def __init__(self) -> None:
        self._value: OrtValue | None = None
        self._rows: Array = np.empty((0, 0), np.float32)

    def of(self, value: OrtValue) -> Array:
        """The rows [batch, vocabulary] in float32; those of float32 logits last until the next step.

        Args:
            value: Logits [batch, tokens, vocabulary], or [batch, vocabulary] of the last token alone.
        """
        if value is not self._value:
            array = view(value)
            self._rows = array[:, -1] if array.ndim == 3 else array
            self._value = value
        if self._rows.dtype == np.float32:
            return self._rows
        if self._rows.dtype == np.uint16:  # bfloat16: the upper half of a float32
            return (self._rows.astype(np.uint32) << 16).view(np.float32)
        return self._rows.astype(np.float32)


def nbytes_of(shape: Sequence[int], number: int) -> int:
    """Bytes of a tensor of a shape and of the element type with this number in onnx.proto."""
    return prod(shape) * np.dtype(_BY_NUMBER[number]).itemsize


def number_of(dtype: str) -> int:
    """The number in onnx.proto of an element type.

    Raises:
        PlanError: No such element type can be fed or kept.
    """
    container(dtype)
    return _CONTAINERS[dtype][1]


def nbytes(value: OrtValue) -> int:
    """Bytes of a tensor's elements."""
    return int(value.tensor_size_in_bytes())
