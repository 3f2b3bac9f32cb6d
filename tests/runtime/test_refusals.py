import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from disaggc.errors import JobError, ModelError, PlanError, WeightsError
from disaggc.plans import Plan
from disaggc.runtime import Execution, deploy, deploy_reference, run

from .splitting import contiguous, read, split

STATIC = "mobius/llama.static/model.onnx"


@pytest.fixture
def model_folder(shared_models: Path) -> Path:
    return (shared_models / STATIC).parent


@pytest.fixture
def plan(shared_models: Path, tmp_path: Path) -> Plan:
    path = shared_models / STATIC
    return split(path, tmp_path, contiguous(read(path), 2, seed=0))


def table(folder: Path, **changes: object) -> None:
    """Change every entry of the table of weights."""
    path = folder / "subgraphs/weights.json"
    data = json.loads(path.read_text())
    for part in data["parts"].values():
        for use in part.values():
            use.update(changes)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("file", ["/etc/passwd", "../model.onnx.data", "a/../../b", "C:\\w.bin", "..\\w.bin"])
def test_weights_outside_the_models_folder_are_refused(
    plan: Plan, tmp_path: Path, model_folder: Path, file: str
) -> None:
    table(tmp_path, file=file)
    with pytest.raises(WeightsError, match=r"lies outside the model's folder .* Move it there and name it"):
        deploy(plan, tmp_path, model_folder)


def test_a_link_that_leads_out_of_the_models_folder_is_refused(
    plan: Plan, tmp_path: Path, model_folder: Path
) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "model.onnx.data").symlink_to(model_folder / "model.onnx.data")
    with pytest.raises(WeightsError, match=r"'model.onnx.data' lies outside the model's folder"):
        deploy(plan, tmp_path, folder)


def test_missing_weights_are_named_with_their_folder(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'model.onnx.data' is not in '.*nowhere'.*with --model"):
        deploy(plan, tmp_path, tmp_path / "nowhere")


def test_weights_that_are_cut_short_are_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_bytes(b"\0" * 1000)
    with pytest.raises(WeightsError, match=r"has 1000 bytes, but the model needs \d+. Fetch it again"):
        deploy(plan, tmp_path, tmp_path)


def test_another_model_of_the_same_name_is_refused(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    other = replace(plan, model=replace(plan.model, sha256="0" * 64))
    with pytest.raises(PlanError, match="is not the model that the plan was compiled from"):
        deploy(other, tmp_path, model_folder)


def test_a_reference_without_its_model_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"No model 'model.onnx' in .* with --model"):
        deploy_reference(plan, tmp_path)


def test_a_plan_without_subgraphs_is_refused(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(PlanError, match=r"has no 'subgraphs/weights.json'"):
        deploy(plan, tmp_path / "empty", model_folder)


def test_a_subgraph_that_does_not_load_is_named(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / plan.decode.stages[1].subgraph).write_bytes(b"no model")
    with pytest.raises(PlanError, match=r"cannot load 'subgraphs/decode_001.onnx'"):
        deploy(plan, tmp_path, model_folder)


def test_an_op_that_onnxruntime_lacks_is_named(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    path = tmp_path / plan.decode.stages[1].subgraph
    path.write_bytes(path.read_bytes().replace(b"Sigmoid", b"Sigmoix"))
    with pytest.raises(PlanError, match=r"cannot load 'subgraphs/decode_001.onnx': .*Sigmoix"):
        deploy(plan, tmp_path, model_folder)


def test_a_context_beyond_the_models_cache_is_refused(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(JobError, match=r"250 tokens and 7 more are to come: 257, but .* holds 256"):
        run(plan, tmp_path, model_folder, [[1] * 250], 7)


def test_a_token_beyond_the_vocabulary_is_refused(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(JobError, match=r"Token id 512 is not in .* vocabulary. Use ids from 0 to 511"):
        run(plan, tmp_path, model_folder, [[1, 512]], 2)


@pytest.mark.parametrize(
    ("prompts", "steps", "message"),
    [
        ([], 1, "There is no prompt"),
        ([[], []], 1, "Prompt 0 is empty"),
        ([[1, -2]], 1, "Prompt 0 has the token id -2"),
        ([[1]], 0, "Cannot generate 0 tokens"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(
    plan: Plan, tmp_path: Path, model_folder: Path, prompts: list[list[int]], steps: int, message: str
) -> None:
    with pytest.raises(JobError, match=message):
        run(plan, tmp_path, model_folder, prompts, steps)


@pytest.mark.parametrize(
    ("poisoned", "message"),
    [
        ([], "Prompt 1 is empty"),
        ([3, -2], "Prompt 1 has the token id -2"),
        ([3, 512], "Token id 512 is not in the model's vocabulary"),
        ([3] * 250, "250 tokens and 9 more are to come: 259, but the model's cache holds 256"),
    ],
)
def test_a_poisoned_request_fails_alone(
    plan: Plan, tmp_path: Path, model_folder: Path, poisoned: list[int], message: str
) -> None:
    well = [[1, 2], [4, 5]]
    expected = run(plan, tmp_path, model_folder, well, 9).tokens
    found = run(plan, tmp_path, model_folder, [well[0], poisoned, well[1]], 9)
    assert message in str(found.failures[1])
    assert found.tokens == (expected[0], (), expected[1])


def test_an_input_of_unknown_use_is_named(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    feeds = tuple(replace(f, kind="unknown") if f.kind == "kv_lengths" else f for f in plan.feeds)
    with pytest.raises(JobError, match="Model input 'nonpad_kv_seqlen' is of unknown use"):
        run(replace(plan, feeds=feeds), tmp_path, model_folder, [[1]], 1)


def test_an_input_that_nobody_gives_is_named(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    feeds = tuple(f for f in plan.feeds if f.kind != "token_ids")
    with pytest.raises(PlanError, match=r"Stage 0 .* reads 'input_ids', which neither a feed nor an earlier"):
        deploy(replace(plan, feeds=feeds), tmp_path, model_folder)


def test_no_threads_are_refused(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(JobError, match="Cannot compute with 0 threads"):
        deploy(plan, tmp_path, model_folder, threads=0)


def moved(plan: Plan, subgraph: str) -> Plan:
    """The plan with its second stage elsewhere."""
    stages = list(plan.decode.stages)
    stages[1] = replace(stages[1], subgraph=subgraph)
    phase = replace(plan.decode, stages=tuple(stages))
    return replace(plan, decode=phase, prefill=phase)


@pytest.mark.parametrize("subgraph", ["../other.onnx", "/etc/other.onnx", "a\\..\\..\\other.onnx"])
@pytest.mark.parametrize("on", ["local", "processes"])
def test_a_subgraph_outside_the_plan_folder_is_refused(
    plan: Plan, tmp_path: Path, model_folder: Path, subgraph: str, on: Literal["local", "processes"]
) -> None:
    (tmp_path.parent / "other.onnx").write_bytes(b"")
    with pytest.raises(
        PlanError, match=r"other.onnx' lies outside the plan folder .* Compile the plan again"
    ):
        deploy(moved(plan, subgraph), tmp_path, model_folder, execution=Execution(on=on))


def test_a_link_that_leads_out_of_the_plan_folder_is_refused(
    plan: Plan, tmp_path: Path, model_folder: Path
) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}.onnx"
    outside.write_bytes((tmp_path / plan.decode.stages[1].subgraph).read_bytes())
    (tmp_path / "link.onnx").symlink_to(outside)
    with pytest.raises(PlanError, match=r"Subgraph .link\.onnx. lies outside the plan folder"):
        deploy(moved(plan, "link.onnx"), tmp_path, model_folder)


@pytest.mark.parametrize("on", ["local", "processes"])
def test_a_subgraph_that_was_changed_since_it_was_checked_is_refused(
    plan: Plan, tmp_path: Path, model_folder: Path, on: Literal["local", "processes"]
) -> None:
    known = replace(plan, files={plan.decode.stages[1].subgraph: "0" * 64})
    with pytest.raises(PlanError, match=r"'subgraphs/decode_001.onnx' .* was changed after it was compiled"):
        deploy(known, tmp_path, model_folder, execution=Execution(on=on))


def test_a_model_outside_its_folder_is_refused(plan: Plan, tmp_path: Path, model_folder: Path) -> None:
    elsewhere = replace(plan, model=replace(plan.model, file="../model.onnx"))
    with pytest.raises(PlanError, match=r"names the model '../model.onnx', outside its folder"):
        deploy(elsewhere, tmp_path, model_folder)
