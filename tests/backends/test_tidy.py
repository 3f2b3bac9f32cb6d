"""Parts compute nothing that is known, that their pool has computed, or that nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession  # type: ignore[attr-defined]  # no __all__ there

from disaggc.backends.cutting import cut
from disaggc.backends.onnxruntime import Part, write_subgraphs
from disaggc.frontends import read_graph
from disaggc.passes.contents import contents
from disaggc.placement.stages import Span

from .toys import run_parts

node = helper.make_node
Places = Sequence[tuple[int, Sequence[int]]]
"""The pool and the nodes of each part."""


def save(
    folder: Path, nodes: Sequence[onnx.NodeProto], x: Sequence[int | str], outputs: Sequence[str] = ("y",)
) -> Path:
    """A model of ``x`` with constants 'zero', 'one', 'minus', 'four' and 'none' [1] to build shapes of."""
    numbers = {"zero": 0, "one": 1, "minus": -1, "four": 4, "none": 0}
    graph = helper.make_graph(
        nodes,
        "tidy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.array([n], np.int64), name) for name, n in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "tidy.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), path)
    return path


def cut_up(path: Path, places: Places) -> list[Part]:
    """Cut a model, write its parts beside it, and say what they are."""
    source, graph = onnx.load(path), read_graph(path)
    spans = [Span(place, (), tuple(nodes)) for place, nodes in places]
    parts = cut(source, graph, spans, [f"subgraphs/{i}.onnx" for i in range(len(spans))], contents(graph))
    write_subgraphs(source, path, parts, path.parent)
    return parts


def ops(path: Path, part: Part) -> list[str]:
    """What a part's subgraph computes."""
    written = onnx.load(path.parent / part.path, load_external_data=False)
    return [n.op_type for n in written.graph.node if n.op_type != "Constant"]


def assert_same(path: Path, parts: Sequence[Part], x: np.ndarray[Any, Any]) -> None:
    """The parts compute what the model does."""
    names = [output.name for output in onnx.load(path).graph.output]
    found = run_parts(path.parent, parts, {"x": x})
    for name, wanted in zip(names, InferenceSession(str(path)).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(found[name], wanted)


def shape_of(*axes: str) -> list[onnx.NodeProto]:
    """Nodes that make 'target' of extents of ``x`` ('zero', 'one') and of numbers."""
    taken = [node("Gather", ["shape", axis], [f"{axis}_of"]) for axis in axes if axis in ("zero", "one")]
    pieces = [f"{axis}_of" if axis in ("zero", "one") else axis for axis in axes]
    return [node("Shape", ["x"], ["shape"]), *taken, node("Concat", pieces, ["target"], axis=0)]


X = np.arange(48, dtype=np.float32).reshape(2, 3, 8)


@pytest.mark.parametrize(
    "axes", [("zero", "one", "four", "minus"), ("zero", "minus"), ("zero", "one", "minus")]
)
def test_a_target_of_known_extents_is_a_constant(axes: tuple[str, ...], tmp_path: Path) -> None:
    nodes = [*shape_of(*axes), node("Abs", ["x"], ["a"]), node("Reshape", ["a", "target"], ["y"])]
    path = save(tmp_path, nodes, ("batch", "new", 8))
    parts = cut_up(path, [(0, range(len(nodes)))])
    assert ops(path, parts[0]) == ["Abs", "Reshape"]
    assert_same(path, parts, X)
    assert_same(path, parts, X[:, :1])


def test_two_extents_that_nothing_tells_are_computed(tmp_path: Path) -> None:
    nodes = [*shape_of("one", "zero", "minus"), node("Reshape", ["x", "target"], ["y"])]
    path = save(tmp_path, nodes, ("batch", "new", 8))
    parts = cut_up(path, [(0, range(len(nodes)))])
    assert "Shape" in ops(path, parts[0])
    assert_same(path, parts, X)


def test_an_extent_beside_one_that_may_be_nothing_is_not_left_to_be_told(tmp_path: Path) -> None:
    nodes = [*shape_of("one", "zero", "four", "minus"), node("Reshape", ["x", "target"], ["y"])]
    nodes[3] = node("Concat", ["one_of", "four", "four"], ["target"], axis=0)
    path = save(tmp_path, nodes, ("batch", "cached", 8))
    parts = cut_up(path, [(0, range(len(nodes)))])
    assert "Shape" in ops(path, parts[0])
    assert_same(path, parts, X)


def test_a_literal_zero_stays_one(tmp_path: Path) -> None:
    nodes = [*shape_of("none", "one", "four"), node("Reshape", ["x", "target"], ["y"], allowzero=1)]
    path = save(tmp_path, nodes, (0, "new", 8))
    parts = cut_up(path, [(0, range(len(nodes)))])
    assert "Shape" in ops(path, parts[0])
    assert_same(path, parts, X[:0])


def test_reshapes_in_a_row_are_one_and_there_and_back_is_none(tmp_path: Path) -> None:
    nodes = [
        *shape_of("zero", "one", "four", "minus"),
        node("Abs", ["x"], ["a"]),
        node("Reshape", ["a", "target"], ["split"]),
        node("Concat", ["zero_of", "one_of", "minus"], ["flat"], axis=0),
        node("Reshape", ["split", "flat"], ["back"]),
        node("Neg", ["back"], ["y"]),
    ]
    path = save(tmp_path, nodes, ("batch", "new", 8))
    parts = cut_up(path, [(0, range(len(nodes)))])
    assert ops(path, parts[0]) == ["Abs", "Neg"]
    assert_same(path, parts, X)


def _twice(op: str, outputs: Sequence[str] = ("y",)) -> list[onnx.NodeProto]:
    return [
        node(op, ["x"], ["first"]),
        node("Abs", ["first"], ["a"]),
        node("Neg", ["a"], ["b"]),
        node(op, ["x"], ["second"]),
        node("Mul", ["b", "second"], list(outputs)[:1]),
    ]


def test_what_a_pool_has_computed_serves_its_later_parts(tmp_path: Path) -> None:
    path = save(tmp_path, _twice("Sin"), (2, 3, 8))
    parts = cut_up(path, [(0, [0, 1]), (1, [2]), (0, [3, 4])])
    assert [ops(path, part) for part in parts] == [["Sin", "Abs"], ["Neg"], ["Mul"]]
    assert "first" in parts[0].outputs
    assert_same(path, parts, X)


def test_another_pool_computes_for_itself(tmp_path: Path) -> None:
    path = save(tmp_path, _twice("Sin"), (2, 3, 8))
    parts = cut_up(path, [(0, [0, 1]), (1, [2, 3, 4])])
    assert ops(path, parts[1]) == ["Neg", "Sin", "Mul"]
    assert parts[0].outputs == ("a",)
    assert_same(path, parts, X)


def test_chance_is_not_taken_once_for_twice(tmp_path: Path) -> None:
    path = save(tmp_path, _twice("RandomNormalLike"), (2, 3, 8))
    (part,) = cut_up(path, [(0, range(5))])
    assert ops(path, part).count("RandomNormalLike") == 2


def test_an_output_of_the_model_keeps_its_node(tmp_path: Path) -> None:
    path = save(tmp_path, _twice("Sin"), (2, 3, 8), ("y", "second"))
    parts = cut_up(path, [(0, [0, 1]), (1, [2]), (0, [3, 4])])
    assert "second" in parts[2].outputs
    assert_same(path, parts, X)


def test_what_nobody_reads_is_left_out(tmp_path: Path) -> None:
    nodes = [node("Abs", ["x"], ["a"]), node("Sin", ["a"], ["unread"]), node("Neg", ["a"], ["y"])]
    path = save(tmp_path, nodes, (2, 3, 8))
    parts = cut_up(path, [(0, [0]), (1, [1]), (0, [2])])
    assert [part.nodes for part in parts] == [(0,), (), (2,)]
    assert_same(path, parts, X)


def test_extents_that_one_pool_wants_are_made_once(tmp_path: Path) -> None:
    nodes = [
        *shape_of("one", "zero", "minus"),
        node("Abs", ["x"], ["a"]),
        node("Reshape", ["a", "target"], ["b"]),
        node("Neg", ["b"], ["c"]),
        node("Reshape", ["a", "target"], ["d"]),
        node("Mul", ["c", "d"], ["y"]),
    ]
    path = save(tmp_path, nodes, ("batch", "new", 8))
    at = len(nodes)
    parts = cut_up(path, [(0, range(at - 4)), (1, [at - 4]), (0, [at - 3]), (1, [at - 2, at - 1])])
    assert [ops(path, part).count("Concat") for part in parts] == [0, 1, 0, 0]
    assert_same(path, parts, X)
