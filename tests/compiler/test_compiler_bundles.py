"""Plans in which only some layers' feed-forward is apart from attention: they run, and say what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from known_machine import known_job, known_library, known_system

from disaggc.backends.emitters import Settings, emit
from disaggc.calibration import forecast
from disaggc.cli import main
from disaggc.compiler import Options, compile_job
from disaggc.errors import JobError, PlanError
from disaggc.plans import Plan, parse_job
from disaggc.report.questions import place_of, why
from disaggc.runtime import Execution, deploy, deploy_reference, verify

PROMPTS = [[5, 7, 11, 13, 2], [1, 2, 3], [9, 8, 7, 6]]
MODELS = ("qwen3_moe.gqa_moe", "llama.dynamo.op23")


def compiled(path: Path, folder: Path, *, some_layers: bool = True, name: str = "plan") -> Plan:
    """For two executors of the known machine, three micro-batches of one request."""
    library = known_library(folder / "library", known_system(), known_system("there"))
    job = known_job(path.name, "afd", 3)
    job = replace(job, search=replace(job.search, some_layers=some_layers))
    return compile_job(job, path.parent, folder / name, Options(library=library, force=True))


@pytest.fixture(scope="module", params=MODELS)
def parted(
    request: pytest.FixtureRequest, runnable: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Plan]:
    """A model, a folder with its plan, and the plan; not to be changed."""
    folder = tmp_path_factory.mktemp("parted")
    path = runnable(request.param)
    return path, folder, compiled(path, folder)


def forward_layers(plan: Plan) -> dict[str, int]:
    """How many layers' feed-forward each pool decodes."""
    found: dict[str, int] = {}
    for load in plan.loads:
        if load.phase == "decode" and load.role in ("ffn", "experts"):
            found[load.pool] = found.get(load.pool, 0) + load.count
    return found


def test_both_pools_decode_some_layers_and_the_plan_says_so(parted: tuple[Path, Path, Plan]) -> None:
    plan = parted[2]
    layers = forward_layers(plan)
    assert len(layers) == 2
    assert sum(layers.values()) == plan.model.layers == 4
    away = place_of(plan.mode, "experts")
    assert plan.mode.endswith(f"FFN on {away} in {layers[away]} of 4 layers")
    assert {load.pool for load in plan.loads if load.phase == "decode" and load.role == "core_attention"} == {
        place_of(plan.mode, "core_attention")
    }
    duties = {pool.name: "; ".join(pool.roles) for pool in plan.pools}
    role = "experts" if "moe" in plan.model.name else "ffn"
    for pool, count in layers.items():
        assert f"{role} ({count} of 4)" in duties[pool]
    assert len([s for s in why(plan, "ffn") if s.startswith("In decode")]) == 2
    assert plan.certificate.status == "optimal"


def test_tokens_are_those_of_the_uncut_model(parted: tuple[Path, Path, Plan]) -> None:
    path, folder, plan = parted
    assert verify(plan, folder / "plan", path.parent, PROMPTS, 12).tokens_equal
    with deploy_reference(plan, path.parent) as deployment:
        expected = deployment.generate(PROMPTS, 24)
    apart = Execution(on="processes", micro_batch=1, micro_batches=3)
    with deploy(plan, folder / "plan", path.parent, 1, apart) as deployment:
        assert deployment.generate(PROMPTS, 24).tokens == expected.tokens


def test_it_is_faster_with_fewer_messages(parted: tuple[Path, Path, Plan]) -> None:
    path, folder, plan = parted
    every = compiled(path, folder, some_layers=False, name="every")
    assert " of 4 layers" not in every.mode
    assert forecast(plan, 3).tokens_per_s > forecast(every, 3).tokens_per_s
    assert len(plan.decode.transfers) < len(every.decode.transfers)


def test_the_same_job_gives_the_same_plan(parted: tuple[Path, Path, Plan]) -> None:
    path, folder, _ = parted
    compiled(path, folder, name="again")
    first, second = ((folder / name / "plan.json").read_bytes() for name in ("plan", "again"))
    assert first == second


def emitted(backend: str, parted: tuple[Path, Path, Plan], output: Path, settings: Settings) -> None:
    emit(parted[1] / "plan", backend, output, settings, library=parted[1] / "library")


@pytest.mark.parametrize("backend", ["vllm", "sglang", "afd-plugin", "llm-d"])
def test_stacks_that_cannot_say_so_refuse_and_name_what_can(
    backend: str, parted: tuple[Path, Path, Plan], tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=r"in \d of 4 layers\).*ort-package"):
        emitted(backend, parted, tmp_path / "out", Settings(checkpoint="org/model"))


def test_a_package_holds_its_stages(parted: tuple[Path, Path, Plan], tmp_path: Path) -> None:
    path, _, plan = parted
    emitted("ort-package", parted, tmp_path / "out", Settings(model=path.parent))
    names = [p.name for p in (tmp_path / "out" / "components").iterdir()]
    assert len([n for n in names if n.startswith("decode")]) == len(plan.decode.stages)


def test_shards_of_such_a_plan_are_equal_too(parted: tuple[Path, Path, Plan], tmp_path: Path) -> None:
    path, folder, plan = parted
    away, kind = place_of(plan.mode, "ffn"), "ep" if "moe" in plan.model.name else "tp"
    command = ["shard", str(folder / "plan"), "-o", str(tmp_path / "shards"), "--degree", f"{away}={kind}2"]
    assert main([*command, "--model", str(path.parent)]) == 0
    told = ["verify", str(tmp_path / "shards"), "--model", str(path.parent), "--max-new-tokens", "8"]
    assert main(told) == 0


def test_a_job_file_asks_for_it() -> None:
    data = {"model": {"onnx": "m.onnx"}, "fleet": {"a": 1}, "tier": [{"like": "t"}]}
    assert parse_job({**data, "search": {"some_layers": True}}, "j").search.some_layers
    with pytest.raises(JobError, match="some_layer"):
        parse_job({**data, "search": {"some_layer": True}}, "j")
