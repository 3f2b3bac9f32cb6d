"""Real models, cut at random places over two pools, against the same models uncut."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from disaggc.plans import Plan
from disaggc.runtime import deploy, verify

from .splitting import MODELS, contiguous, read, split

PROMPTS = [[5, 7, 11, 13, 2], [1, 2, 3], [9, 8, 7, 6, 5]]
STEPS = 8


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("name", MODELS)
def test_a_cut_model_generates_what_the_uncut_one_does(
    shared_models: Path, tmp_path: Path, name: str, parts: int
) -> None:
    path = shared_models / name
    model = read(path)
    plan = split(path, tmp_path, contiguous(model, parts, seed=parts), model=model)
    for prompts in (PROMPTS[:1], PROMPTS):
        found = verify(plan, tmp_path, path.parent, prompts, STEPS)
        assert found.tokens_equal
        assert found.difference <= 1e-6 * found.magnitude


@pytest.mark.parametrize("name", MODELS)
def test_state_is_handed_from_a_prefill_pool_to_the_decode_pools(
    shared_models: Path, tmp_path: Path, name: str
) -> None:
    path = shared_models / name
    plan = split(path, tmp_path, contiguous(read(path), 4, seed=11), prefill_pool="prefill")
    found = verify(plan, tmp_path, path.parent, PROMPTS, STEPS)
    assert found.tokens_equal
    tokens = sum(len(prompt) for prompt in PROMPTS)
    assert found.planned.handed_over == tokens * _bytes_per_token(plan)
    assert found.reference.handed_over == 0


def test_a_sliding_window_slides_in_place(shared_models: Path, tmp_path: Path) -> None:
    path = shared_models / "genai/gpt_oss.fp32/model.onnx"
    plan = split(path, tmp_path, contiguous(read(path), 3, seed=1))
    found = verify(plan, tmp_path, path.parent, [list(range(1, 61))], 24)
    assert found.tokens_equal


def test_requests_in_a_batch_get_the_tokens_they_get_alone(shared_models: Path, tmp_path: Path) -> None:
    path = shared_models / "llama.gqa_moe.onnx"
    plan = split(path, tmp_path, contiguous(read(path), 3, seed=5))
    deployment = deploy(plan, tmp_path, path.parent)
    together = deployment.generate(PROMPTS, STEPS).tokens
    alone = tuple(deployment.generate([prompt], STEPS).tokens[0] for prompt in PROMPTS)
    assert together == alone


def test_every_stage_is_called_once_a_step(shared_models: Path, tmp_path: Path) -> None:
    path = shared_models / "llama.gqa_moe.onnx"
    plan = split(path, tmp_path, contiguous(read(path), 5, seed=2))
    result = deploy(plan, tmp_path, path.parent).generate([[1, 2, 3]], STEPS)
    assert [stage.calls for stage in result.stages] == [1] * 5 + [STEPS - 1] * 5
    assert result.prefill.tokens == 3
    assert result.decode.tokens == result.decode.steps == STEPS - 1


def test_a_wrong_weight_is_caught(shared_models: Path, tmp_path: Path) -> None:
    path = shared_models / "mobius/llama/model.onnx"
    plan = split(path, tmp_path, contiguous(read(path), 3, seed=3))
    _swap_weights_of_one_shape(tmp_path / plan.decode.stages[1].subgraph)
    found = verify(plan, tmp_path, path.parent, PROMPTS, STEPS)
    assert found.difference > 1e-3


def test_swapped_states_are_caught(shared_models: Path, tmp_path: Path) -> None:
    path = shared_models / "llama.dynamo.op23.onnx"
    plan = split(path, tmp_path, contiguous(read(path), 2, seed=3))
    a, b, *rest = plan.states
    wrong = replace(plan, states=(replace(a, present=b.present), replace(b, present=a.present), *rest))
    right = deploy(plan, tmp_path, path.parent).generate(PROMPTS, STEPS, keep_logits=True)
    other = deploy(wrong, tmp_path, path.parent).generate(PROMPTS, STEPS, keep_logits=True)
    assert abs(right.logits[0] - other.logits[0]).max() > 1e-3


def _bytes_per_token(plan: Plan) -> int:
    total = 0
    for state in plan.states:
        size = 4
        for axis, dim in enumerate(state.shape):
            if isinstance(dim, int) and axis != state.axis:
                size *= dim
        total += size
    return total


def _swap_weights_of_one_shape(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    by_shape: dict[tuple[int, ...], onnx.TensorProto] = {}
    for tensor in model.graph.initializer:
        twin = by_shape.setdefault(tuple(tensor.dims), tensor)
        if twin is not tensor and len(tensor.dims) == 2 and tensor.external_data:
            twin.name, tensor.name = tensor.name, twin.name
            path.write_bytes(model.SerializeToString())
            return
    raise AssertionError("no two weights of one shape")
