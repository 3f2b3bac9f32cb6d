"""Annotated models: the checker takes them, onnxruntime runs them alike, and nonsense is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from jobs import tiny_job

from disaggc.backends.emitters import Order, Settings, emit
from disaggc.backends.emitters.device_annotations import check_annotations
from disaggc.backends.emitters.op_table import Placed
from disaggc.backends.emitters.source_model import planned_model
from disaggc.compiler import compile_job
from disaggc.errors import GraphError, ModelError, PlanError
from disaggc.frontends import open_model
from disaggc.ir import Phase
from disaggc.plans import open_plan
from disaggc.runtime.engine import InferenceSession, SessionOptions
from disaggc.targets import load_library

from .conftest import MODELS, MOE

Plans = Callable[[str], Path]


def annotated(folder: Path, output: Path) -> tuple[Path, onnx.ModelProto]:
    emit(folder, "onnx", output)
    path = output / open_plan(folder).model.file
    return path, onnx.load(path, load_external_data=False)


def devices_of(model: onnx.ModelProto, name: str) -> dict[str, str]:
    """Tensor to the device that a configuration places it on."""
    configuration = next(c for c in model.configuration if c.name == name)
    return {
        spec.tensor_name: configuration.device[spec.device[0]]
        for node in model.graph.node
        for noted in node.device_configurations
        if noted.configuration_id == name
        for spec in noted.sharding_spec
    }


def run(path: Path) -> list[Any]:
    """Two prompts through the mixture of experts."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batch, new = 2, 5
    feeds: dict[str, Any] = {
        "input_ids": np.arange(batch * new, dtype=np.int64).reshape(batch, new),
        "position_ids": np.tile(np.arange(new, dtype=np.int64), (batch, 1)),
        "attention_mask": np.ones((batch, new), np.int64),
        "seqlens_k": np.full(batch, new - 1, np.int32),
        "total_sequence_length": np.array(new, np.int32),
    }
    for port in session.get_inputs():
        if port.name.startswith("past"):
            feeds[port.name] = np.zeros((batch, *port.shape[1:2], 0, port.shape[3]), np.float32)
    return list(session.run(None, {port.name: feeds[port.name] for port in session.get_inputs()}))


@pytest.mark.parametrize("name", ["tiny", "moe"])
def test_the_checker_takes_it(plans: Plans, tmp_path: Path, name: str) -> None:
    path, model = annotated(plans(name), tmp_path / "out")
    onnx.checker.check_model(str(path))
    assert model.ir_version >= 11


def test_onnxruntime_runs_it_with_equal_outputs(plans: Plans, tmp_path: Path) -> None:
    path, _ = annotated(plans("tiny"), tmp_path / "out")
    for ours, theirs in zip(run(path), run(MODELS / MOE), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_but_annotations_is_changed(plans: Plans, tmp_path: Path) -> None:
    _, model = annotated(plans("tiny"), tmp_path / "out")
    original = onnx.load(MODELS / MOE, load_external_data=False)
    for node in model.graph.node:
        del node.device_configurations[:]
    assert [n.SerializeToString() for n in model.graph.node] == [
        n.SerializeToString() for n in original.graph.node
    ]
    assert [t.name for t in model.graph.initializer] == [t.name for t in original.graph.initializer]


def test_every_node_is_where_the_table_of_ops_has_it(plans: Plans, tmp_path: Path) -> None:
    _, model = annotated(plans("tiny"), tmp_path / "out")
    with (plans("tiny") / "ops.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    placed = {phase: devices_of(model, phase) for phase in ("prefill", "decode")}
    for row in rows:
        node = model.graph.node[int(row["node"])]
        noted = next(n for n in node.device_configurations if n.configuration_id == row["phase"])
        assert noted.pipeline_stage == int(row["stage"])
        for output in filter(None, node.output):
            assert placed[row["phase"]][output] == row["pool"]


def test_weights_lie_with_the_ops_that_read_them(plans: Plans, tmp_path: Path) -> None:
    _, model = annotated(plans("tiny"), tmp_path / "out")
    placed = devices_of(model, "decode")
    weights = {tensor.name for tensor in model.graph.initializer}
    read = {name for node in model.graph.node for name in node.input} & weights
    assert read <= placed.keys()


def test_a_device_is_a_pool(plans: Plans, tmp_path: Path) -> None:
    _, model = annotated(plans("tiny"), tmp_path / "out")
    names = [pool.name for pool in open_plan(plans("tiny")).pools]
    assert {c.name: (c.num_devices, list(c.device)) for c in model.configuration} == {
        "prefill": (2, names),
        "decode": (2, names),
    }


def test_external_weights_are_copied_for_the_checkers_sake(plans: Plans, tmp_path: Path) -> None:
    path, _ = annotated(plans("colocated"), tmp_path / "out")
    data = path.with_name("model.onnx.data")
    assert data.stat().st_nlink == 1
    assert data.read_bytes() == (MODELS / "llama.int4" / "model.onnx.data").read_bytes()


def _ops(model: onnx.ModelProto) -> list[Placed]:
    return [
        Placed(Phase.DECODE, i, node.op_type, None, "ffn", "one", 0)
        for i, node in enumerate(model.graph.node)
    ]


def test_a_table_of_another_model_is_refused(plans: Plans) -> None:
    order = Order(open_plan(plans("colocated")), plans("colocated"), MODELS / "llama.int4", load_library())
    with pytest.raises(PlanError, match=r"does not fit the model\. Compile the plan again"):
        planned_model(order, _ops(open_model(MODELS / MOE)))


def test_a_decomposed_graph_flows_from_stage_to_stage(
    skeleton: Callable[[str], Path], tmp_path: Path
) -> None:
    """Attention on one pool, the rest on another, and weights that are not there."""
    job = tiny_job()
    path = skeleton("llama.dynamo.op18")
    compile_job(replace(job, model=replace(job.model, onnx=path.name)), path.parent, tmp_path / "plan")
    written = emit(tmp_path / "plan", "onnx", tmp_path / "out")
    check_annotations(onnx.load(tmp_path / "out" / path.name, load_external_data=False))
    assert any("put them there" in note for note in written.notes)


# The validator ----------------------------------------------------------------------------------


def _first(model: onnx.ModelProto) -> Any:
    return model.graph.node[0].device_configurations[0]


BREAKS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "unknown configuration": (
        lambda m: setattr(_first(m), "configuration_id", "train"),
        r"annotated for configurations \['train', 'decode'\]",
    ),
    "empty configuration": (
        lambda m: setattr(_first(m), "configuration_id", ""),
        "annotated for configurations",
    ),
    "no configuration": (lambda m: m.ClearField("configuration"), "no device configuration"),
    "a configuration twice": (
        lambda m: m.configuration.add(name="decode", num_devices=1),
        "Two configurations are called 'decode'",
    ),
    "too few names": (lambda m: m.configuration[0].device.pop(), "has 2 devices and names 1"),
    "no devices": (lambda m: setattr(m.configuration[0], "num_devices", 0), "has 0 devices"),
    "device out of range": (
        lambda m: _first(m).sharding_spec[0].device.__setitem__(0, 17),
        "on device 17; 'prefill' has 2",
    ),
    "negative device": (lambda m: _first(m).sharding_spec[0].device.__setitem__(0, -1), "on device -1"),
    "device group out of range": (
        lambda m: (
            _first(m)
            .sharding_spec[0]
            .index_to_device_group_map.add(key=_first(m).sharding_spec[0].device[0], value=[0, 9])
        ),
        "on device 9",
    ),
    "unknown tensor": (
        lambda m: setattr(_first(m).sharding_spec[0], "tensor_name", "nothing"),
        "places tensor 'nothing', which it neither reads nor writes",
    ),
    "no stage": (lambda m: _first(m).ClearField("pipeline_stage"), "no pipeline stage in 'prefill'"),
    "a node left out": (
        lambda m: m.graph.node[3].ClearField("device_configurations"),
        "Node 3 .* is annotated for configurations",
    ),
    "a stage too early": (
        lambda m: setattr(m.graph.node[-1].device_configurations[1], "pipeline_stage", 0),
        "of stage 0 in 'decode' reads .* of the later stage",
    ),
    "an old IR version": (lambda m: setattr(m, "ir_version", 10), "need IR version 11"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_nonsense_that_the_checker_takes_is_refused(plans: Plans, tmp_path: Path, name: str) -> None:
    _, model = annotated(plans("tiny"), tmp_path / "out")
    check_annotations(model)
    break_it, message = BREAKS[name]
    break_it(model)
    with pytest.raises(GraphError, match=message):
        check_annotations(model)


# Refusals ---------------------------------------------------------------------------------------


def test_another_model_of_that_name_is_refused(plans: Plans, tmp_path: Path) -> None:
    (tmp_path / MOE).write_bytes((MODELS / "llama.int4" / "model.onnx").read_bytes())
    with pytest.raises(PlanError, match="is not the model that the plan was compiled from"):
        emit(plans("tiny"), "onnx", tmp_path / "out", Settings(model=tmp_path))


def test_a_model_that_is_not_there_is_asked_for(plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Name the folder that holds it with --model"):
        emit(plans("tiny"), "onnx", tmp_path / "out", Settings(model=tmp_path))
    assert not (tmp_path / "out").exists()
