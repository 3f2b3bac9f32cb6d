"""A run of elements of a constant: a slice of the model's own file where one is contiguous, else an op.

Ops on constants are folded by onnxruntime when a session is opened, so that no step pays for them.
"""

from __future__ import annotations

import math

from onnx import TensorProto

from disaggc.backends.onnxruntime.nodes import integers_attribute, with_inputs
from disaggc.backends.onnxruntime.weights import run_of
from disaggc.backends.sharding.cuts import Cut
from disaggc.backends.sharding.drawing import Drawing
from disaggc.backends.sharding.stage_graph import StageGraph


def slice_constant(stage: StageGraph, drawing: Drawing, name: str, axis: int, cut: Cut) -> str:
    """The elements ``cut`` of a constant's axis (counted from the end), as a value of the drawing."""
    if cut.size == cut.extent:
        return name
    output = f"{name}/cut{axis}[{cut.start}:{cut.stop}]"
    if drawing.has(output):
        return output
    tensor = stage.tensors.get(name)
    if tensor is not None:
        piece = _piece(tensor, axis, cut, output)
        if piece is not None:
            drawing.constants[output] = piece
            return output
    return _through(stage, drawing, name, axis, cut, output) or slice_value(drawing, name, axis, cut, output)


def slice_value(drawing: Drawing, name: str, axis: int, cut: Cut, output: str) -> str:
    """The elements of any value, by an op."""
    starts, ends = drawing.integers([cut.start]), drawing.integers([cut.stop])
    return drawing.op("Slice", [name, starts, ends, drawing.integers([axis])], output)


def _piece(tensor: TensorProto, axis: int, cut: Cut, output: str) -> TensorProto | None:
    """A reference to a part of a weight's file, if the elements lie in one run of whole bytes."""
    dims = list(tensor.dims)
    at = len(dims) + axis
    if tensor.data_location != TensorProto.EXTERNAL or math.prod(dims[:at]) != 1:
        return None
    inner = math.prod(dims[at + 1 :])
    dims[at] = cut.size
    return run_of(tensor, range(cut.start * inner, cut.stop * inner), dims, output)


def _through(stage: StageGraph, drawing: Drawing, name: str, axis: int, cut: Cut, output: str) -> str | None:
    """The same cut further up, where what made the constant keeps the axis: less is read, and folded."""
    index = stage.producer.get(name)
    if index is None:
        return None
    node, rank = stage.nodes[index], stage.rank(name)
    if node.op_type == "Cast":
        given = slice_constant(stage, drawing, node.input[0], axis, cut)
        drawing.add(with_inputs(node, [given], [output]))
        return output
    if node.op_type == "Transpose" and rank is not None:
        perm = integers_attribute(node, "perm") or tuple(reversed(range(rank)))
        given = slice_constant(stage, drawing, node.input[0], perm[axis] - rank, cut)
        drawing.add(with_inputs(node, [given], [output]))
        return output
    if node.op_type == "Reshape" and rank == -axis:
        return _leading(stage, drawing, name, cut, output)
    return None


def _leading(stage: StageGraph, drawing: Drawing, name: str, cut: Cut, output: str) -> str | None:
    """A cut of the first axis of a reshaped constant, where both forms begin with the same axis."""
    node = stage.nodes[stage.producer[name]]
    source, target = stage.shape(node.input[0]), stage.integers(node.input[1])
    if not source or not target or source[0] != cut.extent:
        return None
    if target[0] not in (cut.extent, -1):
        return None
    given = slice_constant(stage, drawing, node.input[0], -len(source), cut)
    shape = drawing.integers([cut.size, *target[1:]])
    drawing.add(with_inputs(node, [given, shape], [output]))
    return output
