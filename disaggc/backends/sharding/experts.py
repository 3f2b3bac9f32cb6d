"""Experts in one op: com.microsoft MoE and QMoE, cut by experts or within each expert.

Expert parallel, in the terms of serving engines, is dispatch and combine. Every shard knows the router's
choice for all tokens. It takes the (token, expert) pairs whose expert it holds, computes each as a token with
one choice (k = 1, so that the op weighs it by one), weighs it, and adds up what each token got:

    logits -> TopK -> weights, experts [tokens, k]
    pairs = those with first <= expert < last;   rows = tokens of the pairs
    y = MoE(rows, one-hot of the expert, weights of the shard's experts, k=1)
    partial[token] = sum of weight x y over its pairs

No expert is computed for a token that did not choose it, and the partial sums of all shards add up to
what the uncut op gives. The weights are those of onnxruntime's kernel of MoE: softmax over all experts, of
which the chosen are taken as they are, or made to sum to one (normalize_routing_weights).
"""

from __future__ import annotations

from onnx import NodeProto, TensorProto, helper

from disaggc.backends.onnxruntime.nodes import attribute, text_attribute, with_inputs
from disaggc.backends.sharding.columns import Whole, Work
from disaggc.backends.sharding.cuts import Cut, even, undivided
from disaggc.backends.sharding.slicing import slice_constant
from disaggc.backends.sharding.stage_graph import StageGraph
from disaggc.ir import DType

_FIRST = 2
"""From this input on everything belongs to experts, along its first axis."""
_FC1, _FC1_BIAS, _FC2, _FC2_BIAS, _FC3, _FC3_BIAS = 2, 3, 4, 5, 6, 7
_CONTRIB = "com.microsoft"
_QUANTISED_OPTIONAL_LOGITS = 14
"""Input of QMoE that replaces the router's logits in the weighing."""


def is_fused(node: NodeProto) -> bool:
    """Whether a node is all experts of a layer."""
    return node.domain == _CONTRIB and node.op_type in ("MoE", "QMoE")


def expert_cuts(stage: StageGraph, node: NodeProto, shards: int) -> tuple[Cut, ...] | Whole:
    """Runs of experts, one a shard."""
    fault = _fault(stage, node)
    if fault:
        return Whole(f"{node.op_type} '{node.name}' {fault}")
    shape = stage.shape(node.input[_FC1])
    count = shape[0] if shape else None
    if not isinstance(count, int):
        return Whole(f"nothing tells how many experts {node.op_type} '{node.name}' has")
    cuts = even(count, shards)
    what = f"{node.op_type} '{node.name}' has {count} experts"
    return cuts or Whole(undivided(what, count, shards))


def hidden_cuts(stage: StageGraph, node: NodeProto, shards: int) -> tuple[Cut, ...] | Whole:
    """Runs of every expert's inner dimension, one a shard."""
    fault = _fault(stage, node)
    if node.op_type == "QMoE":
        fault = "is quantised: its experts can be shared out (ep), but not cut"
    if fault:
        return Whole(f"{node.op_type} '{node.name}' {fault}")
    shape = stage.shape(node.input[_FC2])
    width = shape[-1] if shape else None
    if not isinstance(width, int) or not _is_laid_out(stage, node, width):
        return Whole(f"MoE '{node.name}' lays out its weights in another way than [experts, outputs, inputs]")
    cuts = even(width, shards)
    what = f"experts of MoE '{node.name}' are {width} wide"
    return cuts or Whole(undivided(what, width, shards))


def _fault(stage: StageGraph, node: NodeProto) -> str:
    weights = [name for name in node.input[_FIRST:] if name]
    if not stage.folded.issuperset(weights):
        return "has weights that are no constants"
    if attribute(node, "use_sparse_mixer", 0):
        return "picks experts by a sparse mixer"
    if len(node.input) > _QUANTISED_OPTIONAL_LOGITS and node.input[_QUANTISED_OPTIONAL_LOGITS]:
        return "weighs experts by other values than it picks them by"
    if node.op_type == "QMoE" and not attribute(node, "normalize_routing_weights", 0):
        return "leaves its routing weights as they are, which kernels of QMoE take in different ways"
    return ""


def _gates(node: NodeProto) -> tuple[int, bool]:
    """Rows of fc1 for each inner element, and whether they lie side by side."""
    if text_attribute(node, "activation_type", "relu") != "swiglu":
        return 1, True
    fusion = attribute(node, "swiglu_fusion", 0)
    return (2, fusion == 1) if fusion else (1, True)


def _is_laid_out(stage: StageGraph, node: NodeProto, width: int) -> bool:
    shape = stage.shape(node.input[_FC1])
    return shape is not None and len(shape) == 3 and shape[1] == width * _gates(node)[0]


def partial_width(work: Work, node: NodeProto, cut: Cut, is_first: bool, output: str) -> str:
    """Every expert, of a run of its inner elements; the first shard alone adds the output's bias."""

    def part(index: int, axis: int) -> str:
        name = node.input[index] if index < len(node.input) else ""
        return (
            _gated(work, node, name, axis, cut)
            if name and index in (_FC1, _FC1_BIAS)
            else (slice_constant(work.stage, work.drawing, name, axis, cut) if name else "")
        )

    bias = node.input[_FC2_BIAS] if is_first and len(node.input) > _FC2_BIAS else ""
    weights = [part(_FC1, -2), part(_FC1_BIAS, -1), part(_FC2, -1), bias, part(_FC3, -2), part(_FC3_BIAS, -1)]
    inputs = [work.full(node.input[0]), work.full(node.input[1]), *weights]
    work.drawing.add(with_inputs(node, inputs, [output]))
    return output


def _gated(work: Work, node: NodeProto, name: str, axis: int, cut: Cut) -> str:
    """Rows of a fused gate and up projection: neighbours, or the same run of both halves."""
    rows, neighbours = _gates(node)
    if neighbours:
        return slice_constant(work.stage, work.drawing, name, axis, cut.times(rows))
    whole = cut.extent * rows
    halves = [
        slice_constant(work.stage, work.drawing, name, axis, cut.within(k * cut.extent, whole))
        for k in range(rows)
    ]
    return work.drawing.op("Concat", halves, f"{halves[0]}/halves", axis=axis)


def partial_experts(work: Work, node: NodeProto, cut: Cut, output: str) -> str | Whole:
    """The sum over a run of experts, by dispatch and combine; see the module."""
    value = work.stage.values.get(node.input[0])
    width = work.stage.extent(node.input[0], -1)
    if value is None or value.dtype is None or width is None:
        return Whole(f"nothing tells how wide the tokens of {node.op_type} '{node.name}' are")
    return _Dispatch(work, node, cut, output, value.dtype, width).drawn()


class _Dispatch:
    """Draws one shard's dispatch, experts and combine."""

    def __init__(self, work: Work, node: NodeProto, cut: Cut, output: str, dtype: DType, width: int) -> None:
        self._work, self._node, self._cut, self._output = work, node, cut, output
        self._type = TensorProto.DataType.Value(dtype.name)
        self._width = width
        self._draw = work.drawing
        self._chosen = attribute(node, "k", 1)

    def drawn(self) -> str:
        """Add all nodes; returns the output."""
        draw = self._draw
        weights, experts = self._choice()
        pairs = self._pairs(experts)
        rows = self._rows(pairs)
        local = self._op(
            "Sub", [self._op("Gather", [experts, pairs], "expert"), self._int(self._cut.start)], "local"
        )
        computed = self._op("Mul", [self._experts(rows, local), self._weight(weights, pairs)], "weighed")
        flat = self._combined(computed, pairs)
        shape = self._op("Shape", [self._work.full(self._node.input[0])], "shape")
        return draw.op("Reshape", [flat, shape], self._output)

    def _op(self, kind: str, inputs: list[str], label: str, **attributes: int) -> str:
        return self._draw.op(kind, inputs, f"{self._output}/{label}", **attributes)

    def _int(self, value: int) -> str:
        return self._draw.scalar(value, TensorProto.INT64)

    def _choice(self) -> tuple[str, str]:
        """Weights and experts of all pairs, flat."""
        logits = self._work.full(self._node.input[1])
        normalised = attribute(self._node, "normalize_routing_weights", 0)
        given = logits if normalised else self._op("Softmax", [logits], "probabilities", axis=-1)
        names = [f"{self._output}/best", f"{self._output}/experts"]
        chosen = self._draw.integers([self._chosen])
        self._draw.add(helper.make_node("TopK", [given, chosen], names, name=names[0], axis=-1))
        weights = self._op("Softmax", [names[0]], "weights", axis=-1) if normalised else names[0]
        line = self._draw.integers([-1])
        return self._op("Reshape", [weights, line], "weights/flat"), self._op(
            "Reshape", [names[1], line], "experts/flat"
        )

    def _pairs(self, experts: str) -> str:
        """Which pairs are of this shard's experts."""
        after = self._op("GreaterOrEqual", [experts, self._int(self._cut.start)], "not_before")
        before = self._op("Less", [experts, self._int(self._cut.stop)], "not_after")
        here = self._op("And", [after, before], "here")
        return self._op("Squeeze", [self._op("NonZero", [here], "found"), self._draw.integers([0])], "pairs")

    def _rows(self, pairs: str) -> str:
        """The tokens of the pairs."""
        x = self._work.full(self._node.input[0])
        tokens = self._op("Reshape", [x, self._draw.integers([-1, self._width])], "tokens")
        return self._op(
            "Gather", [tokens, self._op("Div", [pairs, self._int(self._chosen)], "token")], "rows"
        )

    def _experts(self, rows: str, local: str) -> str:
        """Each row by its one expert."""
        stage, draw = self._work.stage, self._draw
        values = f"shard/one_hot/{self._type}"
        draw.constants[values] = helper.make_tensor(values, self._type, [2], [0.0, 1.0])
        picks = self._op("OneHot", [local, self._int(self._cut.size), values], "picks", axis=-1)
        weights = [
            slice_constant(stage, draw, name, -(stage.rank(name) or 1), self._cut) if name else ""
            for name in self._node.input[_FIRST:]
        ]
        output = f"{self._output}/computed"
        one = {"k": 1, "normalize_routing_weights": 1}
        draw.add(with_inputs(self._node, [rows, picks, *weights], [output], one))
        return output

    def _weight(self, weights: str, pairs: str) -> str:
        taken = self._op("Gather", [weights, pairs], "weight")
        return self._op("Unsqueeze", [taken, self._draw.integers([-1])], "weight/column")

    def _combined(self, computed: str, pairs: str) -> str:
        """For each token the sum over its pairs."""
        count = self._op("Shape", [f"{self._output}/experts/flat"], "count")
        extents = self._op("Concat", [count, self._draw.integers([self._width])], "extents", axis=0)
        zero = self._draw.scalar(0.0, self._type)
        nothing = self._op("Expand", [zero, extents], "nothing")
        where = self._op("Unsqueeze", [pairs, self._draw.integers([-1])], "where")
        spread = self._op("ScatterND", [nothing, where, computed], "spread")
        each = self._op("Reshape", [spread, self._draw.integers([-1, self._chosen, self._width])], "each")
        return self._op("ReduceSum", [each, self._draw.integers([1])], "partial", keepdims=0)
