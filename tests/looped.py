"""The same mixture of experts as a loop: fused ``MoE`` ops rewritten into what a loop over experts does."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def looped(model: onnx.ModelProto, masked: bool = False) -> onnx.ModelProto:
    """With each MoE op as a Loop over its experts.

    Args:
        model: With com.microsoft::MoE ops of interleaved SwiGLU.
        masked: Whether an expert computes all tokens and is masked, instead of those that chose it alone.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for i, node in enumerate(model.graph.node):
        copy.graph.node.extend(_loop(node, model, f"moe{i}", masked) if node.op_type == "MoE" else [node])
    return copy


def _loop(node: onnx.NodeProto, model: onnx.ModelProto, tag: str, masked: bool) -> list[onnx.NodeProto]:
    x, scores, first, second = node.input[0], node.input[1], node.input[2], node.input[4]
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    experts, hidden, _ = shapes[second]
    chosen = next(a.i for a in node.attribute if a.name == "k")
    one = TensorProto.FLOAT if _type_of(model, second) == TensorProto.FLOAT else _type_of(model, second)

    def name(text: str) -> str:
        return f"{tag}/{text}"

    constants = {
        "k": np.array([chosen]),
        "experts": np.array(experts),
        "go": np.array(True),
        "flat": np.array([-1, hidden]),
        "flat_scores": np.array([-1, experts]),
        "last": np.array([-1]),
    }
    nodes = [
        helper.make_node("Constant", [], [name(k)], value=numpy_helper.from_array(v))
        for k, v in constants.items()
    ]
    nodes += [
        helper.make_node("Reshape", [scores, name("flat_scores")], [name("scores")]),
        helper.make_node("TopK", [name("scores"), name("k")], [name("values"), name("picked")]),
        helper.make_node("Softmax", [name("values")], [name("shares")], axis=-1),
        helper.make_node("Reshape", [x, name("flat")], [name("x")]),
        helper.make_node("Sub", [name("x"), name("x")], [name("nothing")]),
        helper.make_node(
            "Loop",
            [name("experts"), name("go"), name("nothing")],
            [name("sum")],
            name=tag,
            body=_body(name, first, second, one, masked),
        ),
        helper.make_node("Shape", [x], [name("shape")]),
        helper.make_node("Reshape", [name("sum"), name("shape")], [node.output[0]]),
    ]
    return nodes


def _body(name, first: str, second: str, dtype: int, masked: bool) -> onnx.GraphProto:  # type: ignore[no-untyped-def]
    """One expert: its matrices, its tokens, SwiGLU, and its share added to what others gave."""
    make = helper.make_node
    split = [numpy_helper.from_array(np.array([a]), f"at{a}") for a in (0, 1, 2)]
    top = numpy_helper.from_array(np.array([np.iinfo(np.int32).max]), "top")
    nodes = [
        make("Equal", [name("picked"), "expert"], ["mine"]),
        make("Cast", ["mine"], ["mask"], to=dtype),
        make("Mul", [name("shares"), "mask"], ["weighed"]),
        make("ReduceSum", ["weighed", name("last")], ["share"], keepdims=1),
        make("Gather", [first, "expert"], ["up"], axis=0),
        make("Gather", [second, "expert"], ["down"], axis=0),
        make("Transpose", ["up"], ["up_t"], perm=[1, 0]),
        make("Transpose", ["down"], ["down_t"], perm=[1, 0]),
    ]
    if masked:
        tokens, share = name("x"), "share"
    else:
        tokens, share = "tokens", "own_share"
        nodes += [
            make("ReduceMax", ["mask", name("last")], ["any"], keepdims=0),
            make("NonZero", ["any"], ["found"]),
            make("Squeeze", ["found", "at0"], ["rows"]),
            make("Gather", [name("x"), "rows"], ["tokens"], axis=0),
            make("Gather", ["share", "rows"], ["own_share"], axis=0),
        ]
    nodes += [
        make("MatMul", [tokens, "up_t"], ["both"]),
        make("Slice", ["both", "at0", "top", "at1", "at2"], ["gate"]),
        make("Slice", ["both", "at1", "top", "at1", "at2"], ["straight"]),
        make("Sigmoid", ["gate"], ["opened"]),
        make("Mul", ["gate", "opened"], ["active"]),
        make("Mul", ["active", "straight"], ["inner"]),
        make("MatMul", ["inner", "down_t"], ["given"]),
        make("Mul", ["given", share], ["mine_given"]),
    ]
    if masked:
        nodes.append(make("Add", ["before", "mine_given"], ["after"]))
    else:
        nodes.append(make("Unsqueeze", ["rows", "at1"], ["at_rows"]))
        nodes.append(make("ScatterND", ["before", "at_rows", "mine_given"], ["after"], reduction="add"))
    nodes.append(make("Identity", ["go_on"], ["still"]))
    inputs = [
        helper.make_tensor_value_info("expert", TensorProto.INT64, []),
        helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        onnx.ValueInfoProto(name="before"),
    ]
    outputs = [onnx.ValueInfoProto(name=n) for n in ("still", "after")]
    return helper.make_graph(nodes, "expert", inputs, outputs, [*split, top])


def _type_of(model: onnx.ModelProto, weight: str) -> int:
    return next(int(t.data_type) for t in model.graph.initializer if t.name == weight)
