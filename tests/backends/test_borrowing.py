"""Extents of a model input, asked of an activation that a part is sent anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest
from known_machine import known_job, known_library, known_system
from onnx import TensorProto, helper

from disaggc.backends.onnxruntime import borrowed
from disaggc.backends.plan_folder import write_plan
from disaggc.compiler import Model, Options
from disaggc.frontends import read_graph
from disaggc.ir import Graph, Role
from disaggc.plans import Plan
from disaggc.runtime import Execution, deploy, deploy_reference
from disaggc.runtime.engine import InferenceSession

PROMPTS = [[5, 7, 11, 13, 2], [1, 2, 3]]


def made(
    folder: Path, opset: int = 20, asked: Mapping[str, Any] = MappingProxyType({})
) -> tuple[onnx.ModelProto, Graph]:
    """Node 0 widens the ids, node 1 turns them, node 2 asks for the shape of the ids, the others use that."""
    some: dict[str, Any] = {"end": 1} if opset >= 15 else {}
    x = helper.make_tensor_value_info("ids", TensorProto.FLOAT, ["batch", "new"])
    out = helper.make_tensor_value_info("out", TensorProto.INT64, [None])
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "two"], ["wide"]),
        helper.make_node("Transpose", ["ids"], ["turned"], perm=[1, 0]),
        helper.make_node("Shape", ["ids"], ["shape"], **asked),
        helper.make_node("Add", ["shape", "zero"], ["sum"]),
        helper.make_node("Shape", ["wide"], ["other"], **some),
        helper.make_node("Concat", ["sum", "other"], ["out"], axis=0),
    ]
    constants = [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("two", 2), ("zero", 0))]
    infos = [
        helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["batch", "new", 1]),
        helper.make_tensor_value_info("turned", TensorProto.FLOAT, ["new", "batch"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [out], constants, value_info=infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path = folder / "m.onnx"
    onnx.save(model, path)
    return model, read_graph(path)


PARTS = ((0, 1), (2, 3, 4, 5))


@pytest.mark.parametrize(
    "asked",
    [{}, {"start": 1}, {"end": 1}, {"start": -1}, {"end": -1}, {"start": -2, "end": 5}, {"start": 2}],
    ids=str,
)
def test_the_lender_gives_the_same_extents(asked: dict[str, int], tmp_path: Path) -> None:
    model, graph = made(tmp_path, asked=asked)
    found = borrowed(model, graph, PARTS, ((), ("wide",)), {})
    assert set(found) == {2}
    assert list(found[2].input) == ["wide"]
    ids = np.zeros((3, 5), np.float32)
    expected = InferenceSession(model.SerializeToString()).run(None, {"ids": ids})[0]
    model.graph.node[2].CopyFrom(found[2])
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(
        InferenceSession(model.SerializeToString()).run(None, {"ids": ids})[0], expected
    )


@pytest.mark.parametrize(
    ("parts", "sent", "opset"),
    [
        (PARTS, ((), ()), 20),
        (PARTS, ((), ("turned",)), 20),
        (((1,), (0, 2, 3, 4, 5)), (("wide",), ("wide",)), 20),
        (((0, 1, 2), (2, 3, 4, 5)), (("wide",), ("wide",)), 20),
        (PARTS, ((), ("wide",)), 13),
    ],
    ids=["nobody lends", "other extents", "the ids are read, too", "in two parts", "an old opset"],
)
def test_a_part_that_cannot_ask_anybody_else_asks_the_input(
    parts: tuple[tuple[int, ...], ...], sent: tuple[tuple[str, ...], ...], opset: int, tmp_path: Path
) -> None:
    model, graph = made(tmp_path, opset)
    assert borrowed(model, graph, parts, sent, {}) == {}


def test_what_is_rewritten_already_stays_so(tmp_path: Path) -> None:
    model, graph = made(tmp_path)
    other = helper.make_node("Identity", ["shape"], ["sum"])
    found = borrowed(model, graph, PARTS, ((), ("wide",)), {3: other})
    assert found[3] is other
    assert set(found) == {2, 3}


# A plan ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def apart(
    runnable: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Plan]:
    """A model, a folder with its plan, and the plan: layers up to core attention on one pool."""
    folder, path = tmp_path_factory.mktemp("apart"), runnable("qwen3_moe.gqa_moe")
    library = known_library(folder / "library", known_system(), known_system("there"))
    job = known_job(path.name, "afd", 2)
    tier, best = Model(path, Options(library=library)).decided(job, path.parent)
    pieces = best.decision.request.pieces.pieces
    core = next(piece.key for piece in pieces if piece.role is Role.CORE_ATTENTION)
    places = tuple(int(not (p.key[0] == core[0] and p.key[1] <= core[1])) for p in pieces) * 2
    decision = replace(best.decision, answer=replace(best.decision.answer, assignment=places))
    (folder / "plan").mkdir()
    return path, folder, write_plan(job, tier, best.source, best.graph, decision, folder / "plan")


def test_only_who_has_the_embedding_wants_the_token_ids(apart: tuple[Path, Path, Plan]) -> None:
    plan = apart[2]
    for phase in (plan.prefill, plan.decode):
        reading = [stage for stage in phase.stages if "input_ids" in stage.inputs]
        assert [stage.index for stage in reading] == [0]
        assert "embedding" in reading[0].roles
        assert len({stage.pool for stage in phase.stages}) == 2


def test_tokens_are_those_of_the_uncut_model(apart: tuple[Path, Path, Plan]) -> None:
    path, folder, plan = apart
    with deploy_reference(plan, path.parent) as deployment:
        expected = deployment.generate(PROMPTS, 20, keep_logits=True)
    for execution in (
        Execution(),
        Execution(on="processes", micro_batch=1, micro_batches=2),
        Execution(on="processes", micro_batch=2, micro_batches=1),
    ):
        with deploy(plan, folder / "plan", path.parent, 1, execution) as deployment:
            found = deployment.generate(PROMPTS, 20)
        assert found.tokens == expected.tokens
