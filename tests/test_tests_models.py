"""What the other tests take for granted of their models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from skeletons import FULL, SKELETONS, SMALL, in_folders


def test_there_are_thirteen_small_models_and_four_full_ones() -> None:
    assert (len(SMALL), len(FULL), len(SKELETONS)) == (13, 4, 17)


@pytest.mark.parametrize("name", SMALL)
def test_a_skeleton_holds_no_weight_over_1_kib(name: str, skeleton: Callable[[str], Path]) -> None:
    model = onnx.load(skeleton(name), load_external_data=False)
    inside = [t for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    assert all(t.ByteSize() < 2048 for t in inside)
    assert any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)


@pytest.mark.parametrize("name", ["qwen3_moe.gqa_moe", "genai.llama.int4"])
def test_the_checkout_has_two_models_that_run(name: str, runnable: Callable[[str], Path]) -> None:
    path = runnable(name)
    assert "examples" in path.parts
    model = onnx.load(path)  # with its weights
    assert all(t.raw_data for t in model.graph.initializer if t.ByteSize() > 2048)
    assert sum(t.ByteSize() for t in model.graph.initializer) > 100_000


def test_a_model_with_weights_is_found_under_any_of_its_names(tmp_path: Path) -> None:
    for place, name in (
        ("a.b.onnx", "a.b"),
        ("genai/x.fp32/model.onnx", "genai.x.fp32"),
        ("y/model.onnx", "genai.y"),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
        assert in_folders(name, (tmp_path / "nowhere", tmp_path)) == tmp_path / place
    assert in_folders("genai.z", (tmp_path,)) is None
