"""From an exporter's file to tokens: every small model is compiled, cut, run and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import BOTH, EXAMPLES
from skeletons import SMALL

from disaggc.cli import main
from disaggc.compiler import Options, compile_job
from disaggc.plans import Job, ModelSpec, Plan, SearchSpec, TierSpec, open_plan
from disaggc.runtime import run, verify

PROMPTS = [[3, 5, 7, 11, 13], [2, 4, 6], [9, 8, 7, 6, 5]]


def cut_in_every_layer(model: Path, folder: Path) -> Plan:
    """A plan for contexts so long that caches want HBM and the rest SRAM."""
    tier = TierSpec(like="gtc2026/high", context_tokens=100_000, prefix_hit=0.99)
    spec = ModelSpec(model.name, "fp8", "fp8", "bf16")
    job = Job(spec, dict(BOTH), (tier,), search=SearchSpec((64,), (4,)))
    return compile_job(job, model.parent, folder, Options())


@pytest.mark.parametrize("name", SMALL)
def test_a_plan_generates_the_tokens_of_the_uncut_model(
    name: str, runnable: Callable[[str], Path], tmp_path: Path
) -> None:
    model = runnable(name)
    plan = cut_in_every_layer(model, tmp_path / "plan")
    assert len({stage.pool for stage in plan.decode.stages}) == 2
    found = verify(plan, tmp_path / "plan", model.parent, PROMPTS, 6)
    assert found.tokens_equal
    assert found.difference <= 1e-5 * found.magnitude


def test_requests_of_unequal_length_run_as_they_would_alone(tmp_path: Path) -> None:
    model = EXAMPLES / "models" / "qwen3_moe.gqa_moe.onnx"
    plan = cut_in_every_layer(model, tmp_path / "plan")
    together = run(plan, tmp_path / "plan", model.parent, PROMPTS, 5).tokens
    alone = [run(plan, tmp_path / "plan", model.parent, [prompt], 5).tokens[0] for prompt in PROMPTS]
    assert list(together) == alone


def test_the_example_compiles_explains_and_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "out")
    assert main(["compile", str(EXAMPLES / "tiny_moe.toml"), "-o", folder]) == 0
    plan = open_plan(tmp_path / "out")
    assert plan.certificate.status == "optimal"
    assert plan.certificate.checked
    assert main(["explain", folder]) == 0
    assert main(["verify", folder]) == 0
    assert "equal: all 48 tokens of 3 requests agree with the uncut model" in capsys.readouterr().out
