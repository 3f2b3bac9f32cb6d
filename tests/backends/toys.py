"""Small models with one awkward thing each, and a way to run them in parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession, SessionOptions  # type: ignore[attr-defined]  # no __all__ there

from disaggc.backends.onnxruntime import Part, boundary, write_subgraphs

FLOAT = TensorProto.FLOAT
WIDE = (32, 32)
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
WEIGHT = np.arange(1024, dtype=np.float32).reshape(WIDE) / 1024


def model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, FLOAT, WIDE) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, WIDE) for name in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("toy", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


def weight(name: str = "w") -> onnx.TensorProto:
    return numpy_helper.from_array(WEIGHT, name)


def chain() -> onnx.ModelProto:
    """y = relu(x @ w) @ w + x."""
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], doc_string="/home/someone/model.py:3"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "w"], ["c"]),
            helper.make_node("Add", ["c", "x"], ["y"]),
        ],
        [weight()],
    )


def branch() -> onnx.ModelProto:
    """An If whose bodies read ``a`` (of another part) and ``w`` (a weight) from outside."""
    then = _body(helper.make_node("MatMul", ["a", "w"], ["t"]))
    other = _body(helper.make_node("Neg", ["a"], ["e"]))
    return model(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
            helper.make_node("Constant", [], ["zero"], value_float=0.0),
            helper.make_node("Greater", ["s", "zero"], ["positive"]),
            helper.make_node("If", ["positive"], ["b"], then_branch=then, else_branch=other),
            helper.make_node("Add", ["b", "x"], ["y"]),
        ],
        [weight()],
    )


def _body(node: onnx.NodeProto) -> onnx.GraphProto:
    outputs = [helper.make_tensor_value_info(name, FLOAT, WIDE) for name in node.output]
    return helper.make_graph([node], "body", [], outputs)


def cut(source: onnx.ModelProto, folder: Path, parts: Sequence[Sequence[int]]) -> list[Part]:
    """Save the model in ``folder``, cut it, and write the parts beside it."""
    path = folder / "toy.onnx"
    onnx.save(source, path)
    written = [
        Part(f"subgraphs/{i}.onnx", tuple(nodes), border.inputs, border.outputs)
        for i, (nodes, border) in enumerate(zip(parts, boundary(source, parts), strict=True))
    ]
    write_subgraphs(onnx.load(path, load_external_data=False), path, written, folder)
    return written


def run_parts(folder: Path, parts: Sequence[Part], feeds: dict[str, Any]) -> dict[str, Any]:
    """Run the parts one after the other, passing values by name."""
    values = dict(feeds)
    for part in parts:
        if part.outputs:
            options = SessionOptions()
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(folder)
            )
            session = InferenceSession((folder / part.path).read_bytes(), options)
            given = {name: values[name] for name in part.inputs}
            values.update(zip(part.outputs, session.run(list(part.outputs), given), strict=True))
    return values


def run_whole(source: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    return list(InferenceSession(source.SerializeToString()).run(None, feeds))
