"""Writes fused skip-and-normalise ops as the add and the norm that they are.

An exporter fuses the residual add with the norm behind it. Cut there, two tensors must cross: the
normed one and the sum. Unfused, the sum alone does, at the price of one more kernel. Which is
cheaper depends on the link, so the compiler prices both forms of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnx import ModelProto, NodeProto, helper

_CONTRIB = "com.microsoft"
_SUM = 3
"""Which output of a fused op is the sum."""
_LAYER_NORM = 17
"""The opset that brought LayerNormalization."""


def unfused(model: ModelProto) -> ModelProto | None:
    """The model with every fused skip-and-normalise op that hands on its sum written as two ops.

    Returns:
        A new model; None if there is no such op, or the opset has no op to write it with.
    """
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    if not any(_hands_on(node) for node in model.graph.node) or opset < _LAYER_NORM:
        return None
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for node in model.graph.node:
        copy.graph.node.extend(_split(node) if _hands_on(node) else [node])
    return copy


def _hands_on(node: NodeProto) -> bool:
    fused = node.domain == _CONTRIB and node.op_type in _NORMS
    return fused and len(node.output) > _SUM and bool(node.output[_SUM])


def _split(node: NodeProto) -> Iterator[NodeProto]:
    inputs = [*node.input, *[""] * (5 - len(node.input))]
    bias = inputs[_BIAS[node.op_type]]
    total = node.output[_SUM]
    plain = f"{total}/without_bias" if bias else total
    yield helper.make_node("Add", inputs[:2], [plain], name=f"{node.name}/add")
    if bias:
        yield helper.make_node("Add", [plain, bias], [total], name=f"{node.name}/bias")
    yield _NORMS[node.op_type](node, total, inputs)


def _rms_norm(node: NodeProto, total: str, inputs: list[str]) -> NodeProto:
    return helper.make_node(
        "SimplifiedLayerNormalization",
        [total, inputs[2]],
        [node.output[0]],
        name=node.name,
        axis=-1,
        epsilon=_epsilon(node),
        stash_type=1,
    )


def _layer_norm(node: NodeProto, total: str, inputs: list[str]) -> NodeProto:
    scaled = [total, inputs[2], inputs[3]] if inputs[3] else [total, inputs[2]]
    return helper.make_node(
        "LayerNormalization", scaled, [node.output[0]], name=node.name, axis=-1, epsilon=_epsilon(node)
    )


def _epsilon(node: NodeProto) -> float:
    return next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)


_BIAS = {"SkipSimplifiedLayerNormalization": 3, "SkipLayerNormalization": 4}
_NORMS: dict[str, Callable[[NodeProto, str, list[str]], NodeProto]] = {
    "SkipSimplifiedLayerNormalization": _rms_norm,
    "SkipLayerNormalization": _layer_norm,
}
"""Fused ops, and how their norm is written alone (onnxruntime's ContribOperators.md)."""
