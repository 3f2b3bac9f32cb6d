"""Column parallel: a value's elements along one axis, computed from just the weights that they need.

``split`` goes backwards from a value. An element-wise op asks for the same elements of what it reads, a
product asks its weight for the columns that make them, a split gate asks for the same part of the
fused product. It ends at weights, which are cut, and at values that have no such axis, which every
shard has whole. Whatever else it meets is a reason why the value can't be split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from disaggc.backends.onnxruntime.nodes import attribute, integers_attribute, with_inputs
from disaggc.backends.sharding import packed
from disaggc.backends.sharding.cuts import Cut
from disaggc.backends.sharding.drawing import Drawing
from disaggc.backends.sharding.slicing import slice_constant
from disaggc.backends.sharding.stage_graph import StageGraph


@dataclass(frozen=True, slots=True)
class Whole:
    """Why something stays whole."""

    reason: str


@dataclass(frozen=True, slots=True)
class Work:
    """What one shard's part of a stage is drawn with.

    Attributes:
        stage: The uncut stage.
        drawing: Where nodes are added.
        full: The name under which a whole value is here.
        is_own: Whether a node is computed whole on every shard, so that a part of it may be instead.
    """

    stage: StageGraph
    drawing: Drawing
    full: Callable[[str], str]
    is_own: Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of a value: the elements ``cut`` along an axis, counted from the end."""

    name: str
    axis: int
    cut: Cut

    @property
    def output(self) -> str:
        """The name of what holds them."""
        return f"{self.name}/cut{self.axis}[{self.cut.start}:{self.cut.stop}]"


def split(work: Work, name: str, axis: int, cut: Cut) -> str | Whole:
    """The elements ``cut`` of a value along an axis (counted from the end).

    Returns:
        The value that holds them; or why there is none.
    """
    if name in work.stage.folded:
        return slice_constant(work.stage, work.drawing, name, axis, cut)
    index = work.stage.producer.get(name)
    if index is None or not work.is_own(index):
        return Whole(f"'{name}' is no product of a weight in '{work.stage.path}'")
    node = work.stage.nodes[index]
    rule = _RULES.get((node.domain, node.op_type))
    if rule is None:
        return Whole(f"{node.op_type} '{node.name}' does not follow a split axis")
    ask = Ask(name, axis, cut)
    return ask.output if work.drawing.has(ask.output) else rule(work, node, ask)


def _each(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    """An op on each element: operands that have the axis are split, the others are whole."""
    inputs = []
    for name in node.input:
        given = _operand(work, name, ask.axis, ask.cut)
        if isinstance(given, Whole):
            return given
        inputs.append(given)
    return _copied(work, node, inputs, ask.output)


def _operand(work: Work, name: str, axis: int, cut: Cut) -> str | Whole:
    if not name:
        return name
    extent = work.stage.extent(name, axis)
    if extent == 1:
        return work.full(name)
    if extent != cut.extent:
        return Whole(f"'{name}' has {extent or 'unknown'} elements where {cut.extent} are split")
    return split(work, name, axis, cut)


def _first(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    """An op whose first operand alone has elements; the others say how."""
    given = split(work, node.input[0], ask.axis, ask.cut)
    if isinstance(given, Whole):
        return given
    return _copied(work, node, [given, *map(work.full, node.input[1:])], ask.output)


def _copied(work: Work, node: NodeProto, inputs: Sequence[str], output: str, **attributes: int) -> str:
    copy = with_inputs(node, inputs, [output], attributes)
    copy.name = output
    work.drawing.add(copy)
    return output


def _matmul(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    left, right = node.input[:2]
    if ask.axis < -2:
        return Whole(f"MatMul '{node.name}' is split along a batch axis")
    part = split(work, right if ask.axis == -1 else left, ask.axis, ask.cut)
    if isinstance(part, Whole):
        return part
    inputs = [work.full(left), part] if ask.axis == -1 else [part, work.full(right)]
    return _copied(work, node, inputs, ask.output)


def _gemm(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    if ask.axis != -1:
        return Whole(f"Gemm '{node.name}' is split along its rows")
    weight = split(work, node.input[1], -2 if attribute(node, "transB", 0) else -1, ask.cut)
    bias = _operand(work, node.input[2], -1, ask.cut) if len(node.input) > 2 else ""
    for part in (weight, bias):
        if isinstance(part, Whole):
            return part
    assert isinstance(weight, str) and isinstance(bias, str)
    return _copied(work, node, [work.full(node.input[0]), weight, *([bias] if bias else [])], ask.output)


def _packed(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    reason = packed.column_fault(work.stage, node) if ask.axis == -1 else "only its columns can be split"
    if reason:
        return Whole(f"MatMulNBits '{node.name}': {reason}")
    inputs = packed.columns(work.stage, work.drawing, node, ask.cut)
    return _copied(work, node, [work.full(node.input[0]), *inputs], ask.output, N=ask.cut.size)


def _part(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    """A part of a fused gate and up projection: the same elements of the whole."""
    source, rank = node.input[0], work.stage.rank(node.input[0])
    if rank is None or attribute(node, "axis", 0) % rank != rank + ask.axis:
        return Whole(f"Split '{node.name}' splits another axis")
    whole = work.stage.extent(source, ask.axis)
    sizes = [work.stage.extent(name, ask.axis) for name in node.output]
    if whole is None or None in sizes:
        return Whole(f"nothing tells the parts of Split '{node.name}'")
    place = next(k for k, name in enumerate(node.output) if name == ask.name)
    before = sum(size for size in sizes[:place] if size is not None)
    return split(work, source, ask.axis, ask.cut.within(before, whole))


def _strided(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    """A part of an axis, or every n-th element of it (an interleaved gate)."""
    told = _slice_of(work.stage, node)
    source, rank = node.input[0], work.stage.rank(node.input[0])
    whole = work.stage.extent(source, ask.axis)
    if told is None or rank is None or whole is None:
        return Whole(f"nothing tells what Slice '{node.name}' takes")
    start, along, step = told
    start += whole if start < 0 else 0
    if along % rank != rank + ask.axis or step < 1:
        return _first(work, node, ask) if step > 0 else Whole(f"Slice '{node.name}' runs back")
    if step == 1:
        return split(work, source, ask.axis, ask.cut.within(start, whole))
    block = ask.cut.times(step)
    if start >= step or block.stop > whole:
        return Whole(f"Slice '{node.name}' does not take one of every {step} elements")
    given = split(work, source, ask.axis, Cut(block.start, block.stop, whole))
    if isinstance(given, Whole):
        return given
    draw = work.drawing
    bounds = [draw.integers([n]) for n in (start, block.size, ask.axis, step)]
    return draw.op("Slice", [given, *bounds], ask.output)


def _slice_of(stage: StageGraph, node: NodeProto) -> tuple[int, int, int] | None:
    """Start, axis and step of a Slice along one axis."""
    told = [stage.integers(name) for name in (*node.input[1:], *[""] * 4)[:4]]
    starts, axes, steps = told[0], told[2], told[3] or (1,)
    if not starts or len(starts) != 1 or not axes or len(steps) != 1:
        return None
    return starts[0], axes[0], steps[0]


def _transpose(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    rank = work.stage.rank(node.input[0])
    if rank is None:
        return Whole(f"nothing tells the rank of '{node.input[0]}'")
    perm = integers_attribute(node, "perm") or tuple(reversed(range(rank)))
    given = split(work, node.input[0], perm[ask.axis] - rank, ask.cut)
    return given if isinstance(given, Whole) else _copied(work, node, [given], ask.output)


def _reaxed(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    """Squeeze and Unsqueeze: the axis moves by those that come or go behind it."""
    axes = work.stage.integers(node.input[1]) if len(node.input) > 1 else None
    source, target = work.stage.rank(node.input[0]), work.stage.rank(node.output[0])
    if not axes or source is None or target is None:
        return Whole(f"nothing tells the axes of {node.op_type} '{node.name}'")
    longer = max(source, target)
    changed = {a % longer for a in axes}
    kept = [a for a in range(longer) if a not in changed]
    if target > source:
        if target + ask.axis in changed:
            return Whole(f"Unsqueeze '{node.name}' makes the split axis")
        moved = kept.index(target + ask.axis) - source
    else:
        moved = kept[target + ask.axis] - source
    given = split(work, node.input[0], moved, ask.cut)
    return given if isinstance(given, Whole) else _copied(work, node, [given, node.input[1]], ask.output)


def _reshape(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    """A reshape that keeps the last axis as it is."""
    shape = work.stage.integers(node.input[1])
    if ask.axis != -1 or not shape or work.stage.extent(node.input[0], -1) != ask.cut.extent:
        return Whole(f"Reshape '{node.name}' does not keep the split axis")
    given = split(work, node.input[0], -1, ask.cut)
    if isinstance(given, Whole):
        return given
    last = ask.cut.size if shape[-1] == ask.cut.extent else shape[-1]
    return _copied(work, node, [given, work.drawing.integers([*shape[:-1], last])], ask.output)


def _looked_up(work: Work, node: NodeProto, ask: Ask) -> str | Whole:
    """Weights looked up along their first axis (experts that were chosen): later axes are theirs."""
    data, indices = node.input[:2]
    rank = work.stage.rank(data)
    first = attribute(node, "axis", 0) == 0 and not attribute(node, "batch_dims", 0)
    single = node.op_type == "Gather" or work.stage.extent(indices, -1) == 1
    if rank is None or not first or not single or -ask.axis >= rank:
        return Whole(f"{node.op_type} '{node.name}' does not keep the split axis")
    given = split(work, data, ask.axis, ask.cut)
    return given if isinstance(given, Whole) else _copied(work, node, [given, work.full(indices)], ask.output)


Rule = Callable[[Work, NodeProto, Ask], str | Whole]

_ELEMENTWISE = (
    "Abs Add Cast Div Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Max Min Mish Mul Neg Pow "
    "Relu Sigmoid Softplus Sqrt Sub Sum Swish Tanh ThresholdedRelu Where"
)
_RULES: dict[tuple[str, str], Rule] = {
    **dict.fromkeys((("", kind) for kind in _ELEMENTWISE.split()), _each),
    **dict.fromkeys(
        (("com.microsoft", kind) for kind in ("Gelu", "QuickGelu", "FastGelu", "BiasGelu")), _each
    ),
    ("", "Clip"): _first,
    ("", "MatMul"): _matmul,
    ("", "Gemm"): _gemm,
    ("com.microsoft", "MatMulNBits"): _packed,
    ("", "Split"): _part,
    ("", "Slice"): _strided,
    ("", "Transpose"): _transpose,
    ("", "Squeeze"): _reaxed,
    ("", "Unsqueeze"): _reaxed,
    ("", "Reshape"): _reshape,
    ("", "Gather"): _looked_up,
    ("", "GatherND"): _looked_up,
}
"""By domain and op: how a split axis goes through it, backwards."""
