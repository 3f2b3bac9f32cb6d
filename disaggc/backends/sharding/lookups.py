"""Experts whose weights are looked up for each (token, expert) pair, and multiplied in a batch.

Expert parallel: a shard looks up in its own run of experts. A pair of another shard's expert gets some expert
of this one, and its product is put to nought, so that the shards' products add up to the uncut one. Weights
are shared out, work is not: every shard multiplies every pair.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from disaggc.backends.onnxruntime.nodes import attribute, with_inputs
from disaggc.backends.sharding.columns import Whole, Work
from disaggc.backends.sharding.cuts import Cut, even, undivided
from disaggc.backends.sharding.slicing import slice_constant
from disaggc.backends.sharding.stage_graph import StageGraph


@dataclass(frozen=True, slots=True)
class LookedUp:
    """The products of a layer's experts up to the last.

    Attributes:
        nodes: What of it depends on a look-up, and the look-ups themselves; the last product is the last.
        index: Which expert each pair is of.
        experts: How many there are to look up in.
    """

    nodes: tuple[int, ...]
    index: str
    experts: int


def looked_up(work: Work, last: int) -> LookedUp | None:
    """The experts whose last product a node is; None if it is not, or if they are of another form."""
    stage = work.stage
    given = (stage.producer.get(name) for name in stage.nodes[last].input)
    if not any(source is not None and _is_lookup(stage, stage.nodes[source]) for source in given):
        return None
    lookups, between = _chain(work, last)
    products = [i for i in between if stage.nodes[i].op_type == "MatMul"]
    indices = {stage.nodes[i].input[1] for i in lookups}
    counts = {(stage.shape(stage.nodes[i].input[0]) or (0,))[0] for i in lookups}
    count = counts.pop() if len(counts) == 1 else 0
    weight = next((n for n in stage.nodes[last].input if stage.producer.get(n) in lookups), "")
    batched = stage.rank(weight) == stage.rank(stage.nodes[last].output[0]) if weight else False
    if len(products) < 2 or len(indices) != 1 or not isinstance(count, int) or count < 2 or not batched:
        return None
    return LookedUp(tuple(sorted({*lookups, *between})), indices.pop(), count)


def lookup_cuts(found: LookedUp, shards: int) -> tuple[Cut, ...] | Whole:
    """Runs of experts, one a shard."""
    count = found.experts
    return even(count, shards) or Whole(undivided(f"a layer has {count} experts", count, shards))


def partial_lookup(work: Work, found: LookedUp, cut: Cut, output: str) -> str | Whole:
    """The last product, of the pairs whose expert is of a run."""
    last = found.nodes[-1]
    value = work.stage.values.get(found.index)
    result = work.stage.values.get(work.stage.nodes[last].output[0])
    if value is None or value.dtype is None or result is None or result.dtype is None:
        return Whole(f"nothing tells the types of '{found.index}' and of what is looked up by it")
    integer = TensorProto.DataType.Value(value.dtype.name)
    index = _local_index(work, found.index, cut, integer, output)
    names = {n: f"{output}/{n}" for i in found.nodes for n in work.stage.nodes[i].output if n}
    for i in found.nodes:
        _draw(work, i, names, index, cut)
    here = _mask(work, found.index, work.stage.nodes[last], output)
    nought = work.drawing.scalar(0.0, TensorProto.DataType.Value(result.dtype.name))
    return work.drawing.op("Where", [here, names[work.stage.nodes[last].output[0]], nought], output)


def _chain(work: Work, last: int) -> tuple[set[int], set[int]]:
    """The look-ups that a node depends on, and what lies between."""
    stage = work.stage
    needs: dict[int, bool] = {}
    lookups: set[int] = set()
    for i in range(last + 1):
        node = stage.nodes[i]
        if not work.is_own(i):
            continue
        if _is_lookup(stage, node):
            lookups.add(i)
        elif any(needs.get(s, s in lookups) for s in _sources(stage, node)):
            needs[i] = True
    wanted, open_ones = set(), [last]
    while open_ones:
        i = open_ones.pop()
        if i not in wanted and (i in lookups or needs.get(i)):
            wanted.add(i)
            open_ones.extend([] if i in lookups else _sources(stage, stage.nodes[i]))
    return lookups & wanted, wanted - lookups


def _sources(stage: StageGraph, node: NodeProto) -> Collection[int]:
    return [stage.producer[name] for name in node.input if name in stage.producer]


def _is_lookup(stage: StageGraph, node: NodeProto) -> bool:
    """Whether a node picks rows of a constant by what is computed."""
    if node.domain or node.op_type not in ("Gather", "GatherND") or node.input[1] in stage.folded:
        return False
    first = not attribute(node, "axis", 0) and not attribute(node, "batch_dims", 0)
    single = node.op_type == "Gather" or stage.extent(node.input[1], -1) == 1
    return node.input[0] in stage.folded and first and single and (stage.rank(node.input[0]) or 0) > 1


def _draw(work: Work, index: int, names: dict[str, str], local: str, cut: Cut) -> None:
    node = work.stage.nodes[index]
    if _is_lookup(work.stage, node):
        rank = work.stage.rank(node.input[0])
        assert rank is not None
        inputs = [slice_constant(work.stage, work.drawing, node.input[0], -rank, cut), local]
    else:
        inputs = [names.get(name) or work.full(name) for name in node.input]
    work.drawing.add(with_inputs(node, inputs, [names.get(name, "") for name in node.output]))


def _local_index(work: Work, index: str, cut: Cut, integer: int, output: str) -> str:
    """Experts counted from this shard's first; those of others are any of its own."""
    draw = work.drawing
    moved = draw.op("Sub", [work.full(index), draw.scalar(cut.start, integer)], f"{output}/moved")
    bounds = [draw.scalar(0, integer), draw.scalar(cut.size - 1, integer)]
    local = draw.op("Clip", [moved, *bounds], f"{output}/local")
    draw.op("Equal", [moved, local], f"{output}/here")
    return local


def _mask(work: Work, index: str, last: NodeProto, output: str) -> str:
    """Which pairs are of this shard's experts, with as many axes as the product."""
    missing = (work.stage.rank(last.output[0]) or 0) - (work.stage.rank(index) or 0)
    axes = work.drawing.integers(list(range(-missing, 0)))
    return work.drawing.op("Unsqueeze", [f"{output}/here", axes], f"{output}/mask")
