"""Nodes that are written otherwise than the model has them: what one is told, and copies of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import NodeProto, helper


def with_inputs(
    node: NodeProto,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, int] | None = None,
) -> NodeProto:
    """A copy of a node that reads and writes other values, with some attributes set anew."""
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.input[:], copy.output[:]
    copy.input.extend(inputs)
    copy.output.extend(outputs)
    for name, value in (attributes or {}).items():
        held = next((a for a in copy.attribute if a.name == name), None)
        if held is not None:
            copy.attribute.remove(held)
        copy.attribute.append(helper.make_attribute(name, value))
    return copy


def is_standard(node: NodeProto, op_type: str) -> bool:
    """Whether a node is this op of ONNX itself."""
    return node.op_type == op_type and node.domain in ("", "ai.onnx")


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((a.i for a in node.attribute if a.name == name), default)


def integers_attribute(node: NodeProto, name: str) -> tuple[int, ...] | None:
    """A list of integers; None if it is left out."""
    return next((tuple(a.ints) for a in node.attribute if a.name == name), None)


def text_attribute(node: NodeProto, name: str, default: str) -> str:
    """A text."""
    return next((a.s.decode() for a in node.attribute if a.name == name), default)
