"""Partial sums: which ops may work on one instead of on the sum, and what a shard computes of them.

An op is linear in an operand if f(a + b) = f(a) + f(b). What is only added (a bias, a residual stream) is
added on one shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from onnx import NodeProto

from disaggc.backends.onnxruntime.nodes import attribute, with_inputs
from disaggc.backends.sharding.columns import Work
from disaggc.backends.sharding.stage_graph import StageGraph
from disaggc.ir import DType

Presence = Mapping[str, frozenset[int]]
"""Partial sum to the shards that have a term of it."""

_SUMS = frozenset(("Add", "Sum", "Sub"))
_FIRST = frozenset(("Div", "Expand", "Flatten", "Identity", "Neg", "ReduceMean", "ReduceSum", "Reshape"))
_FIRST |= frozenset(("Slice", "Squeeze", "Transpose", "Unsqueeze"))


def partial_result(stage: StageGraph, node: NodeProto, partial: Presence) -> frozenset[int]:
    """The shards that have a term of what a node writes; none if it must have its operands summed."""
    summed = [name for name in node.input if name in partial]
    if not summed or node.domain or len(node.output) != 1:
        return frozenset()
    if node.op_type in _SUMS:
        return frozenset().union(*(partial[name] for name in summed))
    alone = len(summed) == 1 and (node.op_type == "Mul" or summed[0] == node.input[0])
    if alone and (node.op_type in _FIRST or node.op_type == "Mul" or _widens(stage, node)):
        return partial[summed[0]]
    return frozenset()


def _widens(stage: StageGraph, node: NodeProto) -> bool:
    """Whether a node casts real numbers to a type that is no coarser."""
    value = stage.values.get(node.input[0])
    if node.op_type != "Cast" or value is None or value.dtype is None or not value.dtype.is_float:
        return False
    wide = {1: DType.FLOAT.bits, 11: DType.DOUBLE.bits}
    return wide.get(attribute(node, "to", 0), 0) >= value.dtype.bits


def draw_partial(
    work: Work, node: NodeProto, names: Mapping[str, str], here: Set[str], is_first: bool, output: str
) -> None:
    """Add what one shard computes of a linear op; it has a term of at least one operand.

    Args:
        work: The shard's part.
        node: The op.
        names: Partial sum to the name of this shard's term.
        here: Partial sums that this shard has a term of.
        is_first: Whether this shard adds what is only added.
        output: Name of the result.
    """
    if node.op_type not in _SUMS:
        inputs = [names[n] if n in here else work.full(n) for n in node.input]
        work.drawing.add(with_inputs(node, inputs, [output]))
        return
    terms = [_term(work, name, names, here, is_first) for name in node.input]
    if node.op_type == "Sub" and not terms[0]:
        work.drawing.op("Neg", [terms[1]], output)
    elif node.op_type == "Sub" and terms[1]:
        work.drawing.op("Sub", terms, output)
    else:
        work.drawing.total([term for term in terms if term], output)


def _term(work: Work, name: str, names: Mapping[str, str], here: Set[str], is_first: bool) -> str:
    """What a shard has of an operand of a sum; '' for nothing."""
    if name in names:
        return names[name] if name in here else ""
    return work.full(name) if is_first else ""
