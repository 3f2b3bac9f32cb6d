"""Golden plans: each job in plans/golden compiles to its plan.json, byte for byte.

A change of a number, a formula or a tie shows here as a diff of plans; ``pytest --update-golden``
writes the new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from skeletons import SKELETONS

from disaggc.compiler import compile_fleet, compile_job
from disaggc.plans import load_job, parse_fleet, parse_plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "fleets"
GOLDEN = Path(__file__).resolve().parents[2] / "plans" / "golden"
MODES = {
    "tiny_moe": "AFD: attention on vr-nvl72, FFN on groq3-lpx",
    "qwen3_235b": "AFD: attention on vr-nvl72, FFN on groq3-lpx",
    "llama3_70b": "P/D: prefill on vr-nvl72, decode on groq3-lpx but embedding and head on vr-nvl72",
}


FLEETS = {
    "vr_nvl72": {"vr-nvl72": 1},
    "vr_lpx1": {"vr-nvl72": 1},
    "vr_lpx2": {"vr-nvl72": 1},
    "vr_lpx5": {"vr-nvl72": 1, "groq3-lpx": 3},
    "vr_lpx8": {"vr-nvl72": 1, "groq3-lpx": 8},
    "intel_sambanova_h200": {"h200-x8": 2, "sn50-rack": 3},
    "gaudi3_sn50": {"gaudi3-x8": 4, "sn50-rack": 2},
    "sn50_alone": {"sn50-rack": 6},
    "mi355x": {"mi355x-x8": 4},
    "trainium3_cs3": {"trn3-ultra": 1, "cs3": 14},
    "h20_l40s": {"h20-x8": 3, "l40s-x8": 1},
}
"""The example fleets, and the machines that their plans use."""


def test_every_golden_folder_is_compared() -> None:
    assert {folder.name for folder in GOLDEN.iterdir()} == MODES.keys() | FLEETS.keys()
    assert {path.stem for path in EXAMPLES.glob("*.toml")} == FLEETS.keys()


@pytest.mark.parametrize("name", FLEETS)
def test_an_example_fleet_compiles_to_its_golden_plan(name: str, tmp_path: Path, update_golden: bool) -> None:
    job = load_job(EXAMPLES / f"{name}.toml")
    compile_fleet(job, EXAMPLES, tmp_path / "plan")
    data = (tmp_path / "plan" / "plan.json").read_bytes()
    golden = GOLDEN / name / "plan.json"
    if update_golden:
        golden.parent.mkdir(exist_ok=True)
        golden.write_bytes(data)
    assert data == golden.read_bytes(), f"the plan changed; compare with {golden}, then --update-golden"


@pytest.mark.parametrize("name", FLEETS)
def test_a_golden_fleet_is_proven_and_uses_what_its_paragraph_says(name: str) -> None:
    plan = parse_fleet((GOLDEN / name / "plan.json").read_bytes(), name)
    assert {s.system: s.used for s in plan.systems if s.used} == FLEETS[name]
    assert (plan.certificate.status, plan.certificate.checked) == ("optimal", True)


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
