"""Golden plans: each job in plans/golden compiles to its plan.json, byte for byte.

A change of a number, a formula or a tie shows here as a diff of plans; ``pytest --update-golden``
writes the new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from skeletons import SKELETONS

from disaggc.compiler import compile_job
from disaggc.plans import load_job, parse_plan

GOLDEN = Path(__file__).resolve().parents[2] / "plans" / "golden"
MODES = {
    "tiny_moe": "AFD: attention on vr-nvl72, FFN on groq3-lpx",
    "qwen3_235b": "AFD: attention on vr-nvl72, FFN on groq3-lpx",
    "llama3_70b": "P/D: prefill on vr-nvl72, decode on groq3-lpx but embedding and head on vr-nvl72",
}


def test_every_golden_folder_is_compared() -> None:
    assert {folder.name for folder in GOLDEN.iterdir()} == MODES.keys()


@pytest.mark.parametrize("name", MODES)
def test_a_golden_job_compiles_to_its_plan(
    name: str, skeleton: Callable[[str], Path], tmp_path: Path, update_golden: bool
) -> None:
    job = load_job(GOLDEN / name / "job.toml")
    model = job.model.onnx.removesuffix(".onnx")
    assert model in SKELETONS
    compile_job(job, skeleton(model).parent, tmp_path / "plan")
    data = (tmp_path / "plan" / "plan.json").read_bytes()
    golden = GOLDEN / name / "plan.json"
    if update_golden:
        golden.write_bytes(data)
    assert data == golden.read_bytes(), f"the plan changed; compare with {golden}, then --update-golden"


@pytest.mark.parametrize("name", MODES)
def test_a_golden_plan_has_the_mode_it_is_there_for(name: str) -> None:
    plan = parse_plan((GOLDEN / name / "plan.json").read_bytes(), name)
    assert plan.mode == MODES[name]
    assert plan.certificate.status == "optimal"
