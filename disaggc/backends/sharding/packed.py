"""Cuts of MatMulNBits, whose weight is packed in blocks along the inner dimension.

By its definition (onnxruntime's ContribOperators.md) the inputs are A, B [N, blocks, bytes], scales [N,
blocks] or flat, zero points (packed like B if they are of one byte, flat or not), g_idx and bias [N].
"""

from __future__ import annotations

import math

from onnx import NodeProto, TensorProto

from disaggc.backends.onnxruntime.nodes import attribute
from disaggc.backends.sharding.cuts import Cut, even, undivided
from disaggc.backends.sharding.drawing import Drawing
from disaggc.backends.sharding.slicing import slice_constant, slice_value
from disaggc.backends.sharding.stage_graph import StageGraph

_B, _SCALES, _ZERO, _ORDER, _BIAS = 1, 2, 3, 4, 5


def column_fault(stage: StageGraph, node: NodeProto) -> str:
    """Why a product can't be cut at all; '' if it can."""
    if _input(node, _ORDER):
        return "its weight is reordered along the inner dimension (g_idx)"
    weights = [_input(node, k) for k in (_B, _SCALES, _ZERO, _BIAS) if _input(node, k)]
    return "" if stage.folded.issuperset(weights) else "its weight is no constant"


def columns(stage: StageGraph, drawing: Drawing, node: NodeProto, cut: Cut) -> list[str]:
    """What stands for its weights where only some columns are computed."""
    found = [slice_constant(stage, drawing, _input(node, _B), -3, cut)]
    for k in (_SCALES, _ZERO):
        name = _input(node, k)
        shape = stage.shape(name) if name else None
        if shape is None:
            found.append("")
        elif len(shape) == 1:
            found.append(slice_constant(stage, drawing, name, -1, cut.times(_per_column(shape, cut.extent))))
        else:
            found.append(slice_constant(stage, drawing, name, -2, cut))
    bias = _input(node, _BIAS)
    found += ["", slice_constant(stage, drawing, bias, -1, cut)] if bias else []
    return _trimmed(found)


def row_cuts(stage: StageGraph, node: NodeProto, shards: int) -> tuple[Cut, ...] | str:
    """Runs of the inner dimension, of whole blocks; or why there are none."""
    fault = column_fault(stage, node)
    if fault:
        return fault
    extent, block = attribute(node, "K", 0), attribute(node, "block_size", 1)
    cuts = even(extent, shards, block)
    if cuts is None:
        blocks = extent // block
        return undivided(f"its inner dimension is {blocks} blocks of {block}", blocks, shards)
    packed_zero = _input(node, _ZERO) and _is_packed(stage, _input(node, _ZERO))
    if packed_zero and extent // block // shards * attribute(node, "bits", 4) % 8:
        return "its zero points are packed across the cut"
    return cuts


def rows(stage: StageGraph, drawing: Drawing, node: NodeProto, cut: Cut, with_bias: bool) -> list[str]:
    """What stands for its weights where only a run of the inner dimension is multiplied."""
    blocks = cut.over(attribute(node, "block_size", 1))
    found = [slice_constant(stage, drawing, _input(node, _B), -2, blocks)]
    found.append(_rows_of(stage, drawing, _input(node, _SCALES), blocks))
    zero = _input(node, _ZERO)
    if zero and _is_packed(stage, zero):
        bits = attribute(node, "bits", 4)
        blocks = Cut(blocks.start * bits // 8, blocks.stop * bits // 8, -(-blocks.extent * bits // 8))
    found.append(_rows_of(stage, drawing, zero, blocks) if zero else "")
    found += ["", _input(node, _BIAS)] if with_bias and _input(node, _BIAS) else []
    return _trimmed(found)


def _rows_of(stage: StageGraph, drawing: Drawing, name: str, cut: Cut) -> str:
    """The columns of [N, blocks], stored so or flat."""
    shape = stage.shape(name)
    assert shape is not None
    if len(shape) == 2:
        return slice_constant(stage, drawing, name, -1, cut)
    table = drawing.op("Reshape", [name, drawing.integers([-1, cut.extent])], f"{name}/table")
    piece = slice_value(drawing, table, -1, cut, f"{name}/table[{cut.start}:{cut.stop}]")
    return drawing.op("Reshape", [piece, drawing.integers([-1])], f"{piece}/flat")


def _per_column(shape: tuple[int | str, ...], columns: int) -> int:
    return math.prod(d for d in shape if isinstance(d, int)) // columns


def _is_packed(stage: StageGraph, name: str) -> bool:
    weight = stage.graph.weights.get(name)
    return weight is not None and weight.dtype.name == TensorProto.DataType.Name(TensorProto.UINT8)


def _input(node: NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""


def _trimmed(names: list[str]) -> list[str]:
    """Without absent ones at the end."""
    while names and not names[-1]:
        names.pop()
    return names
