"""Bytes of ops against those that onnxruntime's profiler says its kernels read and wrote."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import CONTRIB, Arrays, model, profile, random
from onnx import helper

from disaggc.cost import Amounts, Bill, Formats
from disaggc.frontends import read_graph
from disaggc.ir import Mark, Point, Role, Routing
from disaggc.passes.annotate_cost import AnnotateCost

SMALL = st.integers(1, 6)
NO_ROUTING = Routing(1, 1)


def _priced(
    made: onnx.ModelProto, folder: Path, at: Point, routing: Routing = NO_ROUTING
) -> dict[str, Amounts]:
    """What each node of a model costs, by its name."""
    path = folder / "model.onnx"
    onnx.save(made, path)
    graph = read_graph(path)
    if routing is not NO_ROUTING:
        mark = Mark(Role.EXPERTS, 0, 0, "test", routing)
        graph = type(graph)(
            **{name: getattr(graph, name) for name in graph.__slots__ if name != "marks"},
            marks=(mark,) * len(graph.nodes),
        )
    costs = AnnotateCost.load(None).apply(graph)
    assert not costs.warnings
    return {
        node.name: Bill.of([cost], activation_bits=32).amounts(at, Formats())
        for node, cost in zip(costs.nodes, costs.costs, strict=True)
    }


def _node(op: str, inputs: list[str], domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [f"{op}_out"], name=op, domain=domain, **attributes)


def _packed(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 255, shape, dtype=np.uint8)


@given(batch=SMALL, tokens=SMALL, width=SMALL, inner=SMALL, bits=st.sampled_from([4, 8]))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_products_norms_and_windows_move_the_bytes_that_kernels_do(
    batch: int, tokens: int, width: int, inner: int, bits: int, tmp_path: Path
) -> None:
    blocks, size = width, 16
    weights: Arrays = {
        "w": random(inner, blocks * size),
        "gamma": random(blocks * size),
        "packed": _packed(inner, blocks, size * bits // 8),
        "scales": random(inner * blocks),
        "taps": random(3, tokens, 2),
    }
    nodes = [
        _node("MatMul", ["x", "w"]),
        _node("LayerNormalization", ["MatMul_out", "gamma"]),
        _node(
            "MatMulNBits",
            ["LayerNormalization_out", "packed", "scales"],
            CONTRIB,
            K=blocks * size,
            N=inner,
            bits=bits,
            block_size=size,
        ),
        _node("Conv", ["MatMul_out", "taps"]),
        _node("MaxPool", ["MatMul_out"], kernel_shape=[2]),
    ]
    fed = {"x": random(batch, tokens, inner)}
    made = model(nodes, fed, weights, ["MatMulNBits_out", "Conv_out", "MaxPool_out"])
    moved, priced = profile(made, fed, tmp_path), _priced(made, tmp_path, Point(batch, tokens, 0))
    assert len(moved) == len(nodes)
    for name, bytes_ in moved.items():
        assert float(priced[name].weight_bytes) == bytes_.weights, name
        assert float(priced[name].activation_bytes) == bytes_.read + bytes_.written, name


@given(rows=st.integers(1, 50), width=SMALL, tokens=SMALL)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_lookup_writes_its_rows_and_reads_no_table(
    rows: int, width: int, tokens: int, tmp_path: Path
) -> None:
    fed: Arrays = {"ids": np.zeros((1, tokens), dtype=np.int64)}
    made = model([_node("Gather", ["table", "ids"])], fed, {"table": random(rows, width)}, ["Gather_out"])
    moved, priced = (
        profile(made, fed, tmp_path)["Gather"],
        _priced(made, tmp_path, Point(1, tokens, 0))["Gather"],
    )
    assert moved.weights == 4 * rows * width
    assert float(priced.weight_bytes) == 0
    assert float(priced.activation_bytes) == moved.written + 4 * tokens  # and the indices


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [1, 3, 64])
def test_packed_experts_are_counted_at_stored_bytes_for_those_expected(
    bits: int, tokens: int, tmp_path: Path
) -> None:
    experts, chosen, hidden, inner, pack = 8, 2, 32, 16, 8 // bits
    weights: Arrays = {
        "up": _packed(experts, 2 * inner, hidden // pack), "up_scales": random(experts, 2 * inner),
        "down": _packed(experts, hidden, inner // pack), "down_scales": random(experts, hidden),
    }  # fmt: skip
    inputs = ["x", "router", "up", "up_scales", "", "down", "down_scales"]
    options = {"k": chosen, "expert_weight_bits": bits, "activation_type": "swiglu", "swiglu_fusion": 1}
    fed: Arrays = {"x": random(1, tokens, hidden), "router": random(tokens, experts)}
    made = model([_node("QMoE", inputs, CONTRIB, **options)], fed, weights, ["QMoE_out"])
    moved = profile(made, fed, tmp_path)["QMoE"]
    priced = _priced(made, tmp_path, Point(1, tokens, 0), Routing(experts, chosen))["QMoE"]
    hit = 1 - math.prod([1 - chosen / experts] * tokens)  # each token misses an expert, independently
    assert moved.weights == sum(array.nbytes for array in weights.values())
    assert float(priced.expert_bytes) == pytest.approx(moved.weights * hit)
    assert float(priced.weight_bytes) == 0
    assert float(priced.activation_bytes) == moved.read + moved.written
    matrices = 2 * inner * hidden + hidden * inner
    assert float(priced.flops) == 2 * tokens * chosen * matrices


def test_an_unknown_op_is_priced_by_its_bytes_and_named(tmp_path: Path) -> None:
    weights, fed = {"w": random(8, 4)}, {"x": random(2, 4)}
    node = helper.make_node("Fold", ["x", "w"], ["y"], name="fold_3", domain="acme")
    made = model([node], fed, weights, ["y"])
    made.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 2
    made.opset_import.append(helper.make_opsetid("acme", 1))
    onnx.save(made, tmp_path / "model.onnx")
    graph = AnnotateCost.load(None).apply(read_graph(tmp_path / "model.onnx"))
    amounts = Bill.of(graph.costs, activation_bits=32).amounts(Point(1, 1, 0), Formats())
    assert (float(amounts.weight_bytes), float(amounts.activation_bytes)) == (8 * 4 * 4, 2 * 4 * 4 + 2 * 4)
    assert float(amounts.flops) == 0
    assert graph.warnings[-1] == (
        "No cost rule for acme::Fold: 1 priced by the bytes they read and write, first 'fold_3'. "
        "Declare the op in passes/costs/*.toml, here or in a folder of your own (--library)."
    )
