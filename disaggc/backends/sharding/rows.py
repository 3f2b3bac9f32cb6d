"""Row parallel: a product over an inner dimension that shards hold runs of gives a partial sum on each."""

from __future__ import annotations

from onnx import NodeProto

from disaggc.backends.onnxruntime.nodes import attribute, with_inputs
from disaggc.backends.sharding import packed
from disaggc.backends.sharding.columns import Whole, Work, split
from disaggc.backends.sharding.cuts import Cut, even, undivided
from disaggc.backends.sharding.stage_graph import StageGraph

PRODUCTS = frozenset({("", "MatMul"), ("", "Gemm"), ("com.microsoft", "MatMulNBits")})


def is_product(node: NodeProto) -> bool:
    """Whether a node multiplies matrices in a way that can be cut."""
    return (node.domain, node.op_type) in PRODUCTS


def inner_extent(stage: StageGraph, node: NodeProto) -> int | None:
    """Elements of a product's inner dimension; None if unknown, or if it can't be cut."""
    if node.op_type == "MatMulNBits":
        return attribute(node, "K", 0) or None
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return None
    extents = (stage.extent(name, axis) for name, axis in operands(node))
    return next((extent for extent in extents if extent is not None and extent > 1), None)


def operands(node: NodeProto) -> tuple[tuple[str, int], ...]:
    """What is multiplied along the inner dimension, and which axis that is; packed weights are left out."""
    if node.op_type == "MatMulNBits":
        return ((node.input[0], -1),)
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return ((node.input[0], -1), (node.input[1], -1 if transposed else -2))


def inner_cuts(stage: StageGraph, node: NodeProto, shards: int) -> tuple[Cut, ...] | Whole:
    """Equal runs of a product's inner dimension."""
    where = f"{node.op_type} '{node.name}'"
    if node.op_type == "MatMulNBits":
        cuts = packed.row_cuts(stage, node, shards)
        return Whole(f"{where}: {cuts}") if isinstance(cuts, str) else cuts
    extent = inner_extent(stage, node)
    assert extent is not None
    found = even(extent, shards)
    if found is None:
        return Whole(undivided(f"the inner dimension of {where} is {extent}", extent, shards))
    return found


def partial_product(work: Work, index: int, cut: Cut, is_first: bool, output: str) -> str | Whole:
    """One shard's part of a product; the first alone adds what is added to the sum.

    Returns:
        ``output``; or why the product can't be cut.
    """
    node = work.stage.nodes[index]
    parts = [split(work, name, axis, cut) for name, axis in operands(node)]
    whole = next((part for part in parts if isinstance(part, Whole)), None)
    if whole is not None:
        return whole
    inputs = [part for part in parts if isinstance(part, str)]
    if node.op_type == "MatMulNBits":
        weights = packed.rows(work.stage, work.drawing, node, cut, is_first)
        work.drawing.add(with_inputs(node, [*inputs, *weights], [output], {"K": cut.size}))
        return output
    bias = [work.full(name) for name in node.input[2:3] if name] if is_first else []
    work.drawing.add(with_inputs(node, [*inputs, *bias], [output]))
    return output
