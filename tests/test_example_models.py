"""The models of full size in examples/models: what the script makes, and what is found in them."""

from __future__ import annotations

import functools
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from jobs import EXAMPLES
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession

from disaggc.compiler import compile_job
from disaggc.cost import Bill
from disaggc.frontends import read_graph
from disaggc.ir import Graph, Role, Routing
from disaggc.passes import load_pipeline, run
from disaggc.plans import Job, ModelSpec, SearchSpec, TierSpec

MODELS = EXAMPLES / "models"
SCRIPT = MODELS / "make_moe.py"
SHIPPED = ("moe_1t", "qwen3_235b")
EXPERTS_1T = 61 * 384 * 3 * 7168 * 2048
OTHERS_1T = 61 * (7168 * 128 * (64 + 8 + 8 + 64) + 7168 * 384 + 2 * 7168) + 7168 * (2 * 163_840 + 1)
SMALL: dict[str, Any] = {
    "layers": 3,
    "hidden": 32,
    "experts": 4,
    "top_k": 2,
    "expert_width": 16,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "vocabulary": 64,
    "shared_width": 16,
    "dense_layers": 1,
    "dense_width": 24,
    "positions": 64,
}


@functools.cache
def analysed_example(name: str) -> Graph:
    return run(read_graph(MODELS / f"{name}.onnx"), load_pipeline())


@functools.cache
def small() -> onnx.ModelProto:
    """Three layers in fp32, the first dense, the others with a shared expert."""
    script = runpy.run_path(str(SCRIPT))
    made: onnx.ModelProto = script["make"](script["Shape"](**SMALL, element_type="FLOAT"))
    return made


def roles(graph: Graph) -> set[Role]:
    return {mark.role for mark in graph.marks}


def test_the_script_makes_the_shipped_models_byte_for_byte(tmp_path: Path) -> None:
    copy = tmp_path / SCRIPT.name
    copy.write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, str(copy)], check=True, cwd=tmp_path)  # noqa: S603 - the checkout's own
    for name in SHIPPED:
        assert (tmp_path / f"{name}.onnx").read_bytes() == (MODELS / f"{name}.onnx").read_bytes()


def test_a_preset_is_written_with_its_fields_replaced(tmp_path: Path) -> None:
    out = tmp_path / "two.onnx"
    command = [sys.executable, str(SCRIPT), "moe_1t", "--layers", "2", "--out", str(out)]
    subprocess.run(command, check=True, cwd=tmp_path)  # noqa: S603 - the checkout's own
    kinds = [node.op_type for node in onnx.load(out, load_external_data=False).graph.node]
    assert kinds.count("GroupQueryAttention") == kinds.count("MoE") == 2


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_sound_as_far_as_that_can_be_said_without_weights(name: str) -> None:
    model = onnx.load(MODELS / f"{name}.onnx", load_external_data=False)
    absent = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    for tensor in absent:  # the checker wants the file of external weights; inputs of their types stand in
        model.graph.initializer.remove(tensor)
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model, full_check=True)
    assert not (MODELS / "weights.bin").exists()
    assert (MODELS / f"{name}.onnx").stat().st_size < 400_000


@pytest.mark.parametrize("name", SHIPPED)
def test_declared_weights_follow_each_other_without_gap(name: str) -> None:
    graph = read_graph(MODELS / f"{name}.onnx")
    files = [(w.file, w.nbytes) for w in graph.weights.values() if w.file is not None]
    assert files
    end = 0
    for file, nbytes in files:
        assert (file.location, file.offset, file.length) == ("weights.bin", end, nbytes)
        end += nbytes


def test_the_1t_model_is_61_equal_layers_of_attention_and_experts() -> None:
    graph = analysed_example("moe_1t")
    assert len(graph.layers) == 61
    assert {layer.layer_class for layer in graph.layers} == {0}
    assert {m.routing for m in graph.marks if m.role is Role.EXPERTS} == {Routing(384, 8)}
    assert {s.axis for s in graph.states} == {2}
    assert [(s.heads, s.width, s.in_place) for s in graph.states] == [(8, 128, True)] * 122
    assert roles(graph) == {
        Role.EMBEDDING,
        Role.NORM,
        Role.QKV,
        Role.CORE_ATTENTION,
        Role.OUT_PROJECTION,
        Role.ROUTER,
        Role.EXPERTS,
        Role.HEAD,
    }


def test_the_1t_model_has_its_parameters_in_experts_and_the_rest() -> None:
    graph = analysed_example("moe_1t")
    tables = 2 * 4096 * 64  # rotary cosines and sines
    bill = Bill.of(graph.costs)
    assert bill.expert_elements == {16: EXPERTS_1T}
    stored = sum(w.elements for w in graph.weights.values() if w.file is not None)
    assert stored == EXPERTS_1T + OTHERS_1T + tables
    assert stored == pytest.approx(1.04e12, rel=0.005)


def test_the_shipped_qwen3_costs_what_the_skeleton_of_the_tests_costs(
    analysed: Callable[[str], Graph],
) -> None:
    ours, theirs = analysed_example("qwen3_235b"), analysed("full.qwen3_235b.moe_op")
    assert roles(ours) == roles(theirs)
    for role in sorted(roles(theirs)):
        bills = [
            Bill.of(cost for cost, mark in zip(graph.costs, graph.marks, strict=True) if mark.role is role)
            for graph in (ours, theirs)
        ]
        assert bills[0] == bills[1], role


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_compiles(name: str, tmp_path: Path) -> None:
    tier = TierSpec(like="gtc2026/medium", input_tokens=30_000, output_tokens=2_000)
    model = ModelSpec(f"{name}.onnx", "fp8", "fp8", "bf16")
    job = Job(model, {"vr-nvl72": 1}, (tier,), search=SearchSpec((64, 512), (1,)))
    plan = compile_job(job, MODELS, tmp_path / "plan")
    assert plan.certificate.status == "optimal"
    assert plan.certificate.checked


def test_dense_layers_and_shared_experts_are_found(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(small(), path)
    graph = run(read_graph(path), load_pipeline())
    found = [{graph.marks[i].role for i in layer.nodes} for layer in graph.layers]
    assert [Role.FFN in layer for layer in found] == [True, False, False]
    assert [Role.EXPERTS in layer for layer in found] == [False, True, True]
    assert [Role.SHARED_EXPERT in layer for layer in found] == [False, True, True]


def test_with_weights_the_model_runs_and_a_cached_step_equals_the_whole_prompt() -> None:
    session = InferenceSession(with_weights(small()), providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    caches = {
        value.name: np.zeros((1, 2, 8, 16), np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past")
    }

    def step(ids: list[int], cached: int) -> np.ndarray[Any, Any]:
        feeds = {
            "input_ids": np.array([ids]),
            "seqlens_k": np.array([cached + len(ids) - 1], np.int32),
            "total_sequence_length": np.array(cached + len(ids), np.int32),
        }
        found = dict(zip(outputs, session.run(None, feeds | caches), strict=True))
        last: np.ndarray[Any, Any] = found.pop("logits")[0, -1]
        caches.update({name.replace("present", "past"): value for name, value in found.items()})
        return last

    whole = step([3, 5, 7, 9], 0)
    step([3, 5, 7], 0)
    assert np.abs(whole).max() > 0.01
    np.testing.assert_allclose(step([9], 3), whole, atol=1e-5)


def with_weights(model: onnx.ModelProto) -> bytes:
    """The model with random numbers for every weight that is declared only."""
    filled, random = onnx.ModelProto(), np.random.default_rng(0)
    filled.CopyFrom(model)
    for tensor in filled.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            values = 0.1 * random.standard_normal(tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return bytes(filled.SerializeToString())
