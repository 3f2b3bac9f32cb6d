"""Loops, scans and branches cost what they run, and a mixture of experts is one in a loop, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from jobs import TINY
from looped import looped
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession  # type: ignore[attr-defined]  # no __all__ there

from disaggc.cost import Bill, Formats
from disaggc.frontends import open_model, read_graph
from disaggc.ir import Graph, Point, Role, Routing
from disaggc.passes import load_pipeline, run

POINTS = (Point(1.0, 512, 0), Point(8.0, 1, 1000), Point(256.0, 1, 1000))
MOE = "full.qwen3_235b.moe_op"


def _amounts(graph: Graph, point: Point, role: Role | None = None) -> list[float]:
    """Flops, plain weights and experts' weights of a role, or of everything."""
    costs = [c for c, m in zip(graph.costs, graph.marks, strict=True) if role in (None, m.role)]
    amounts = Bill.of(costs, 16, 16).amounts(point, Formats())
    return [float(amounts.flops), float(amounts.weight_bytes), float(amounts.expert_bytes)]


@pytest.mark.parametrize("masked", [False, True])
def test_experts_in_a_loop_cost_what_the_fused_op_costs(
    masked: bool, skeleton: Callable[[str], Path], analysed: Callable[[str], Graph]
) -> None:
    """Whether an expert gathers the tokens that chose it, or computes all of them and masks."""
    path = skeleton(MOE)
    graph = run(read_graph(path, looped(open_model(path), masked)), load_pipeline())
    assert not [text for text in graph.warnings if "priced" in text]
    for point in POINTS:
        assert _amounts(graph, point) == pytest.approx(_amounts(analysed(MOE), point), rel=0.02)
        assert _amounts(graph, point, Role.EXPERTS) == pytest.approx(
            _amounts(analysed(MOE), point, Role.EXPERTS), rel=0.02
        )


def test_experts_in_a_loop_have_their_role(
    skeleton: Callable[[str], Path], analysed: Callable[[str], Graph]
) -> None:
    path = skeleton(MOE)
    graph = run(read_graph(path, looped(open_model(path))), load_pipeline())
    loops = [mark for mark, node in zip(graph.marks, graph.nodes, strict=True) if node.op == "Loop"]
    assert Counter((m.role, m.routing) for m in loops) == {(Role.EXPERTS, Routing(128, 8)): 94}
    assert len({layer.layer_class for layer in graph.layers}) == 1
    assert len(graph.layers) == len(analysed(MOE).layers)


@pytest.mark.parametrize("masked", [False, True])
def test_the_loop_computes_what_the_fused_op_computes(masked: bool) -> None:
    """The rewriting that these tests rest on is right: onnxruntime gives the same logits."""
    model = onnx.load(TINY)
    feeds = _feeds(model)
    whole, loop = (
        np.asarray(InferenceSession(m.SerializeToString()).run(None, feeds)[0])
        for m in (model, looped(model, masked))
    )
    np.testing.assert_allclose(loop, whole, rtol=1e-3, atol=1e-5)


def _feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """A prompt of five tokens for one request, with empty caches."""
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        dims = [d.dim_value or (5 if "seq" in d.dim_param else 1) for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            dims[2] = 8  # the cache's buffer
            feeds[value.name] = np.zeros(dims, np.float32)
        elif len(dims) == 2:
            feeds[value.name] = np.arange(5).reshape(1, 5)
        else:
            kind = np.int32 if value.type.tensor_type.elem_type == TensorProto.INT32 else np.int64
            feeds[value.name] = np.full(dims, 4 if len(dims) else 5, kind)
    return feeds


# If, Loop and Scan by themselves -------------------------------------------------------------------


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    opset: int = 21,
    x: list[int | str] | None = None,
) -> onnx.ModelProto:
    shape = x or ["n", 16]
    given = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("which", TensorProto.BOOL, []),
    ]
    taken = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph(
        nodes, "g", given, taken, [numpy_helper.from_array(v, n) for n, v in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _graph(model: onnx.ModelProto, folder: Path) -> Graph:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return run(read_graph(path), load_pipeline())


def _weight(columns: int) -> np.ndarray:
    return np.ones((16, columns), np.float32)


def _branch(name: str, weight: str) -> onnx.GraphProto:
    node = helper.make_node("MatMul", ["x", weight], [name])
    return helper.make_graph([node], name, [], [onnx.ValueInfoProto(name=name)])


def _total(graph: Graph) -> tuple[float, dict[int, int]]:
    bill = Bill.of(graph.costs, 32, 32)
    return float(bill.flops.evaluate(Point(1.0, 1, 0))), dict(bill.weight_elements)


def test_an_if_costs_its_dearer_branch(tmp_path: Path) -> None:
    wide, narrow = _branch("t", "wide"), _branch("e", "narrow")
    node = helper.make_node("If", ["which"], ["y"], then_branch=narrow, else_branch=wide)
    model = _model([node], {"wide": _weight(48), "narrow": _weight(8)}, x=[4, 16])
    assert _total(_graph(model, tmp_path)) == (2 * 4 * 16 * 48, {32: 16 * 48})


def _times(trips: str) -> onnx.NodeProto:
    make = helper.make_node
    nodes = [make("MatMul", ["before", "w"], ["after"]), make("Identity", ["go"], ["still"])]
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        onnx.ValueInfoProto(name="before"),
    ]
    outputs = [onnx.ValueInfoProto(name=n) for n in ("still", "after")]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    return make("Loop", [trips, "which", "x"], ["y"], body=body, name="loop")


def test_a_loop_costs_its_body_times_its_trips_and_its_weights_once(tmp_path: Path) -> None:
    model = _model([_times("trips")], {"trips": np.array(7), "w": _weight(16)}, x=[4, 16])
    assert _total(_graph(model, tmp_path)) == (7 * 2 * 4 * 16 * 16, {32: 256})


def test_trips_may_be_an_extent(tmp_path: Path) -> None:
    make = helper.make_node
    nodes = [make("Shape", ["x"], ["s"]), make("Gather", ["s", "first"], ["trips"]), _times("trips")]
    model = _model(nodes, {"first": np.array(0), "w": _weight(16)}, x=[4, 16])
    assert _total(_graph(model, tmp_path))[0] == 4 * 2 * 4 * 16 * 16


def test_a_loop_whose_trips_are_data_counts_once_and_says_so(tmp_path: Path) -> None:
    graph = _graph(_model([_times("")], {"w": _weight(16)}, x=[4, 16]), tmp_path)
    assert _total(graph)[0] == 2 * 4 * 16 * 16
    assert any("The trips of Loop are data and counted as one" in text for text in graph.warnings)


def test_a_scan_runs_once_for_each_element_of_its_axis(tmp_path: Path) -> None:
    make = helper.make_node
    step = make("MatMul", ["row", "w"], ["out"])
    inputs = [helper.make_tensor_value_info("row", TensorProto.FLOAT, [4, 16])]
    body = helper.make_graph([step], "body", inputs, [onnx.ValueInfoProto(name="out")])
    node = make("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)
    model = _model([node], {"w": _weight(16)}, x=[9, 4, 16])
    assert _total(_graph(model, tmp_path)) == (9 * 2 * 4 * 16 * 16, {32: 256})


def test_bodies_within_bodies_are_multiplied(tmp_path: Path) -> None:
    inner = _times("three")
    inner.input[1], inner.input[2], inner.output[0] = "go", "before", "after"
    make = helper.make_node
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        onnx.ValueInfoProto(name="before"),
    ]
    renamed = onnx.NodeProto.FromString(
        inner.SerializeToString().replace(b"before", b"befor2").replace(b"after", b"afte2")
    )
    renamed.input[2], renamed.output[0] = "before", "after"
    body = helper.make_graph(
        [renamed, make("Identity", ["go"], ["still"])],
        "outer",
        inputs,
        [onnx.ValueInfoProto(name=n) for n in ("still", "after")],
    )
    outer = make("Loop", ["five", "which", "x"], ["y"], body=body, name="outer")
    constants = {"five": np.array(5), "three": np.array(3), "w": _weight(16)}
    assert _total(_graph(_model([outer], constants, x=[4, 16]), tmp_path))[0] == 15 * 2 * 4 * 16 * 16


def test_layers_whose_loops_differ_inside_are_of_other_classes(skeleton: Callable[[str], Path]) -> None:
    path = skeleton(MOE)
    model = looped(open_model(path))
    loops = [node for node in model.graph.node if node.op_type == "Loop"]
    body = next(a.g for a in loops[5].attribute if a.name == "body")
    next(n for n in body.node if n.op_type == "Sigmoid").op_type = "Tanh"
    classes = Counter(layer.layer_class for layer in run(read_graph(path, model), load_pipeline()).layers)
    assert sorted(classes.values()) == [1, 93]


# Opsets and formats -------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(11, onnx.defs.onnx_opset_version() + 1))
def test_every_opset_from_11_on_is_read(opset: int, tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = _graph(_model([node], {"w": _weight(8)}, opset, x=[4, 16]), tmp_path)
    assert _total(graph) == (2 * 4 * 16 * 8, {32: 128})


def test_quantised_experts_count_their_stored_bits(
    skeleton: Callable[[str], Path], analysed: Callable[[str], Graph]
) -> None:
    """The tiny mixture with its fused ops as QMoE of four bits: the same flops, an eighth of the bytes."""
    path = skeleton("qwen3_moe.gqa_moe")
    model = open_model(path)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    shapes |= {t.name: list(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MoE":
            _quantise(node, shapes, model)
    graph = run(read_graph(path, model), load_pipeline())
    before = analysed("qwen3_moe.gqa_moe")
    for point in POINTS:
        mine, plain = (_amounts(g, point, Role.EXPERTS) for g in (graph, before))
        assert mine[0] == pytest.approx(plain[0], rel=0.02)
        assert mine[2] == pytest.approx(plain[2] / 8, rel=0.15)  # the scales come on top


def _quantise(node: onnx.NodeProto, shapes: dict[str, list[int]], model: onnx.ModelProto) -> None:
    """Packed weights of half the bytes' count, with a scale for each row."""
    inputs = [node.input[0], node.input[1]]
    for name in (node.input[2], node.input[4]):
        experts, rows, columns = shapes[name]
        for suffix, dims, kind in (
            ("packed", [experts, rows, columns // 2], TensorProto.UINT8),
            ("scales", [experts, rows], TensorProto.FLOAT),
        ):
            tensor = TensorProto(name=f"{node.name}/{name}/{suffix}", data_type=kind, dims=dims)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights.bin")
            model.graph.initializer.append(tensor)
            inputs.append(tensor.name)
        inputs.append("")
    node.op_type = "QMoE"
    node.input[:] = inputs
    node.attribute.append(helper.make_attribute("expert_weight_bits", 4))


def test_a_body_is_a_graph_of_its_own(tmp_path: Path) -> None:
    branches = {"then_branch": _branch("t", "w"), "else_branch": _branch("e", "w")}
    node = helper.make_node("If", ["which"], ["y"], **branches)
    graph = _graph(_model([node], {"w": _weight(8)}, x=[4, 16]), tmp_path)
    assert [body.attribute for body in graph.bodies[0]] == ["else_branch", "then_branch"]
    assert graph.bodies[0][0].graph.weights["w"].shape == (16, 8)
    assert graph.weights.keys() == {"w"}
