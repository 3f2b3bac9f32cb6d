"""Plans whose feed-forward networks are shared out: they run, and give the tokens of the uncut model."""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from jobs import BOTH, EXAMPLES, TINY, small_job, tiny_plan

from disaggc.backends.sharding import parse_degrees, share_out
from disaggc.cli import main
from disaggc.compiler import Options, compile_job
from disaggc.errors import JobError, PlanError
from disaggc.plans import Job, ModelSpec, Plan, SearchSpec, TierSpec, dump_plan, open_plan, parse_plan
from disaggc.report.sharding import with_first_shards
from disaggc.runtime import Execution, verify
from disaggc.runtime.scheduler import Worked
from disaggc.runtime.verify import Verification
from disaggc.runtime.virtual_clock import simulate

PROMPTS = [[3, 5, 7, 11, 13], [2, 4, 6], [9, 8, 7, 6, 5]]
FFN, ONE = "groq3-lpx", "h100-x8"
BOUND = 1e-5
"""Of the largest logit: float32, summed in another order."""

LLAMA, MOE = "genai.llama.int4", "qwen3_moe.gqa_moe"
APART = (
    (MOE, "tp2"),
    (MOE, "tp4"),
    (MOE, "ep2"),
    (MOE, "ep4"),
    (LLAMA, "tp2"),
    (LLAMA, "tp4"),
    ("genai.gpt_oss.fp32", "ep2"),
)
"""Models whose networks are in a pool of their own, and its degrees; weights of two are in the repository."""
TOGETHER = (
    (MOE, "ep2"),
    (MOE, "tp4"),
    (LLAMA, "tp2"),
    ("genai.gpt_oss.fp32", "tp4"),
    ("genai.gpt_oss.fp32", "ep4"),
    ("genai.qwen3.fp32", "tp2"),
    ("mobius.qwen3_moe", "tp2"),
    ("mobius.qwen3_moe", "ep4"),
    ("mobius.llama.static", "tp4"),
    ("qwen3_moe.batched_mm.dynamo.op23", "tp2"),
    ("qwen3_moe.batched_mm.dynamo.op23", "ep4"),
    ("deepseek_v3.batched_mm.dynamo.op23", "tp4"),
    ("deepseek_v3.batched_mm.dynamo.op23", "ep2"),
    ("gemma3.dynamo.op18", "tp2"),
    ("llama.dynamo.op18", "tp2"),
    ("llama.dynamo.op23", "tp4"),
    ("llama.gqa_moe", "tp2"),
    ("mobius.llama", "tp2"),
)
"""Models that one pool does everything of."""

Planned = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, runnable: Callable[[str], Path]) -> Planned:
    """Model and 'apart' (networks on SRAM) or 'together' (one pool) to a plan folder; not to be changed."""
    root = tmp_path_factory.mktemp("planned")

    @functools.cache
    def compiled(name: str, form: str) -> Path:
        if (name, form) == (MOE, "apart"):
            return tiny_plan(tmp_path_factory.getbasetemp())
        model, folder = runnable(name), root / f"{name}.{form}"
        if form == "together":
            compile_job(small_job(model.name, {ONE: 2}, 64), model.parent, folder, Options())
            return folder
        tier = TierSpec(like="gtc2026/high", context_tokens=100_000, prefix_hit=0.99)
        spec = ModelSpec(model.name, "fp8", "fp8", "bf16")
        job = Job(spec, dict(BOTH), (tier,), search=SearchSpec((64,), (4,)))
        compile_job(job, model.parent, folder, Options())
        return folder

    return compiled


def compared(plan: Plan, folder: Path, execution: Execution | None = None) -> Verification:
    model = Path((folder / "model.path").read_text(encoding="utf-8").strip())
    return verify(plan, folder, model, PROMPTS, 5, execution=execution or Execution())


@pytest.mark.parametrize(("name", "degree"), APART)
def test_shards_generate_the_tokens_of_the_uncut_model(
    name: str, degree: str, planned: Planned, tmp_path: Path
) -> None:
    plan = share_out(planned(name, "apart"), tmp_path / "shards", parse_degrees([f"{FFN}={degree}"]))
    shards = int(degree[2:])
    assert {f"{FFN}/{i}" for i in range(shards)} <= {stage.pool for stage in plan.decode.stages}
    found = compared(plan, tmp_path / "shards")
    assert found.tokens_equal
    assert found.difference <= BOUND * found.magnitude


@pytest.mark.parametrize(("name", "degree"), TOGETHER)
def test_one_pool_that_does_everything_is_shared_out_between_its_attention(
    name: str, degree: str, planned: Planned, tmp_path: Path
) -> None:
    plan = share_out(planned(name, "together"), tmp_path / "shards", parse_degrees([f"{ONE}={degree}"]))
    layers, shards = plan.model.layers, int(degree[2:])
    assert len(plan.decode.stages) == layers * (1 + shards) + 1
    found = compared(plan, tmp_path / "shards")
    assert found.tokens_equal
    assert found.difference <= BOUND * found.magnitude


@pytest.mark.parametrize("degree", ["ep2", "tp4"])
def test_shards_run_as_processes_beside_two_instances_of_attention(
    degree: str, planned: Planned, tmp_path: Path
) -> None:
    """Data parallel attention and an expert or tensor parallel network: requests spread, experts shared."""
    plan = share_out(planned(MOE, "apart"), tmp_path / "shards", parse_degrees([f"{FFN}={degree}"]))
    execution = Execution(on="processes", instances={"vr-nvl72": 2}, micro_batch=2, deadline_s=60.0)
    found = compared(plan, tmp_path / "shards", execution)
    assert found.tokens_equal
    assert found.difference <= BOUND * found.magnitude


def test_two_replicas_of_every_shard_serve_two_instances_of_attention(
    planned: Planned, tmp_path: Path
) -> None:
    plan = share_out(planned(MOE, "apart"), tmp_path / "shards", parse_degrees([f"{FFN}=ep2"]))
    instances = {"vr-nvl72": 2, f"{FFN}/0": 2, f"{FFN}/1": 2}
    found = compared(plan, tmp_path / "shards", Execution(instances=instances))
    assert found.tokens_equal


def test_a_shard_with_the_weights_of_another_is_caught(planned: Planned, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    plan = share_out(planned(MOE, "apart"), folder, parse_degrees([f"{FFN}=ep2"]))
    first, second = (
        next(s.subgraph for s in plan.decode.stages if s.pool == f"{FFN}/{i}" and "experts" in s.roles)
        for i in range(2)
    )
    (folder / second).write_bytes(_with_weights_of(folder / second, folder / first))
    digest = hashlib.sha256((folder / second).read_bytes()).hexdigest()
    found = compared(replace(plan, files={**plan.files, second: digest}), folder)
    assert found.difference > 100 * BOUND * found.magnitude


def _with_weights_of(path: Path, other: Path) -> bytes:
    """A subgraph whose cut weights lie where another's do."""
    model, right = (onnx.load(p, load_external_data=False) for p in (path, other))
    places = {t.name.partition("/cut")[0]: t for t in right.graph.initializer if "/cut" in t.name}
    for tensor in model.graph.initializer:
        if "/cut" in tensor.name:
            del tensor.external_data[:]
            tensor.external_data.extend(places[tensor.name.partition("/cut")[0]].external_data)
    data: bytes = model.SerializeToString()
    return data


def test_the_plans_own_degree_is_the_default(planned: Planned, tmp_path: Path) -> None:
    folder = planned(MOE, "apart")
    before = open_plan(folder)
    degree = next(pool for pool in before.pools if pool.name == FFN).parallelism.ep
    plan = share_out(folder, tmp_path / "shards", {})
    (sharding,) = plan.sharding
    assert (sharding.pool, sharding.kind, len(sharding.shards)) == (FFN, "expert parallel", degree)
    assert [pool.name for pool in plan.pools] == ["vr-nvl72", *sharding.shards]
    decode = next(ops for ops in sharding.ops if ops.phase == "decode")
    assert (decode.role, decode.rule, decode.ops, decode.layers) == ("experts", "expert parallel", 4, (0, 3))


@pytest.fixture(scope="module")
def shards(planned: Planned, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The example apart, and its experts over four shards."""
    folder = tmp_path_factory.mktemp("four") / "shards"
    share_out(planned(MOE, "apart"), folder, parse_degrees([f"{FFN}=ep4"]))
    return planned(MOE, "apart"), folder


def test_the_folder_is_a_plan_folder(shards: tuple[Path, Path]) -> None:
    plan = open_plan(shards[1])
    assert parse_plan(dump_plan(plan), "again") == plan
    assert set(plan.files) == {
        str(path.relative_to(shards[1]))
        for path in shards[1].rglob("*")
        if path.is_file() and path.name not in ("plan.json", "model.path")
    }


def test_writing_it_again_gives_the_same_bytes(shards: tuple[Path, Path], tmp_path: Path) -> None:
    share_out(shards[0], tmp_path / "again", parse_degrees([f"{FFN}=ep4"]))
    for name in ("plan.json", "ops.csv", "shards.csv", *open_plan(shards[1]).files):
        assert (tmp_path / "again" / name).read_bytes() == (shards[1] / name).read_bytes(), name


def test_no_weight_is_copied(shards: tuple[Path, Path]) -> None:
    written = sum(path.stat().st_size for path in shards[1].rglob("*.onnx"))
    assert written < 0.1 * TINY.stat().st_size


def test_every_stage_reads_what_an_earlier_one_or_the_driver_gives(shards: tuple[Path, Path]) -> None:
    plan = open_plan(shards[1])
    for phase in (plan.decode, plan.prefill):
        known = {feed.input for feed in plan.feeds}
        for index, stage in enumerate(phase.stages):
            assert stage.index == index
            assert known.issuperset(stage.inputs), stage
            known.update(stage.outputs)


def test_transfers_are_what_pools_need_of_each_other(shards: tuple[Path, Path]) -> None:
    before, plan = open_plan(shards[0]), open_plan(shards[1])
    phase = plan.decode
    sent = {(t.after, t.target, name) for t in phase.transfers for name in t.tensors}
    for writer, reader in itertools.combinations(phase.stages, 2):
        for name in set(writer.outputs) & set(reader.inputs):
            assert writer.pool == reader.pool or (writer.index, reader.pool, name) in sent
    planned_bytes = {t.tensors: t.bytes_per_token for t in before.decode.transfers}
    whole = {t.tensors: t.bytes_per_token for t in phase.transfers if t.tensors in planned_bytes}
    assert whole
    assert all(whole[names] == pytest.approx(planned_bytes[names]) for names in whole)


def test_the_tables_say_which_shard_has_what(shards: tuple[Path, Path]) -> None:
    plan = open_plan(shards[1])
    with (shards[1] / "shards.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "decode"]
    assert {(row["pool"], row["from"], row["to"], row["of"]) for row in rows} == {
        (f"{FFN}/{i}", str(2 * i), str(2 * i + 2), "8") for i in range(4)
    }
    with (shards[1] / "ops.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            stages = plan.decode.stages if row["phase"] == "decode" else plan.prefill.stages
            assert stages[int(row["stage"])].pool == row["pool"]


def test_shards_take_no_longer_on_the_virtual_clock_than_the_pool_was_predicted_to(
    shards: tuple[Path, Path],
) -> None:
    """They work at the same time, and are sent to at the same time."""
    ends = []
    for folder in shards:
        entries = simulate(open_plan(folder), [Worked(0, "decode", 3, 1, 0.0, 1.0, ())])
        ends.append(max(entry.end_us for entry in entries))
    assert ends[1] == pytest.approx(ends[0], rel=1e-3)


def test_where_time_is_drawn_the_first_shard_stands_for_all(shards: tuple[Path, Path]) -> None:
    before, drawn = open_plan(shards[0]), with_first_shards(open_plan(shards[1]))
    assert {pool.name for pool in drawn.pools} == {"vr-nvl72", f"{FFN}/0"}
    assert {stage.pool for stage in drawn.decode.stages} == {"vr-nvl72", f"{FFN}/0"}
    times = [sum(stage.time_us for stage in plan.decode.stages) for plan in (before, drawn)]
    assert times[1] == pytest.approx(times[0], rel=1e-3)


def test_the_command_shares_out_verifies_and_explains(
    planned: Planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "shards")
    assert main(["shard", str(planned(MOE, "apart")), "-o", folder, "--degree", f"{FFN}=ep2"]) == 0
    shown = capsys.readouterr().out
    assert f"{FFN}: expert parallel over 2 executors, {FFN}/0 to {FFN}/1" in shown
    assert "decode: 4 x experts, expert parallel, layers 0 to 3" in shown
    assert main(["verify", folder]) == 0
    assert "equal: all 48 tokens of 3 requests agree with the uncut model" in capsys.readouterr().out
    assert main(["explain", folder]) == 0
    assert f"{FFN}: expert parallel over 2 executors" in capsys.readouterr().out


def test_the_command_answers_programs(
    planned: Planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "shards")
    degree = f"{FFN}=tp2"
    assert main(["shard", str(planned(MOE, "apart")), "-o", folder, "--degree", degree, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sharding"][0]["shards"] == [f"{FFN}/0", f"{FFN}/1"]
    assert told["stages"]["decode"] > 0


REFUSALS = (
    (f"{FFN}=ep3", "MoE 'node__symbolic' has 8 experts, which 3 does not divide"),
    (f"{FFN}=tp1", "leaves the pool whole. Give 2 shards or more"),
    ("vr-nvl72=tp2", "pool 'vr-nvl72' has no feed-forward network; groq3-lpx has"),
    ("groq-lpx=tp2", "the plan has no pool 'groq-lpx'. Did you mean 'groq3-lpx'?"),
)


@pytest.mark.parametrize(("degree", "message"), REFUSALS)
def test_a_degree_that_makes_no_sense_is_refused_and_nothing_is_written(
    degree: str, message: str, planned: Planned, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as error:
        share_out(planned(MOE, "apart"), tmp_path / "shards", parse_degrees([degree]))
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_experts_are_not_shared_out_where_there_are_none(planned: Planned, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=rf"'{FFN}' has no routed experts. Write {FFN}=tp2"):
        share_out(planned(LLAMA, "apart"), tmp_path / "shards", parse_degrees([f"{FFN}=ep2"]))


def test_a_plan_is_shared_out_once(shards: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="is shared out already"):
        share_out(shards[1], tmp_path / "again", {})


def test_a_plan_that_was_shared_out_is_not_emitted(
    shards: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "emitted")
    assert main(["emit", str(shards[1]), "--backend", "onnx", "-o", out]) == 1
    assert "Emit the plan that it was made of" in capsys.readouterr().err


def test_a_plan_without_degrees_needs_one(planned: Planned, tmp_path: Path) -> None:
    folder = planned(LLAMA, "together")
    plan = open_plan(folder)
    degrees = [replace(pool.parallelism, tp=1, ep=1) for pool in plan.pools]
    pools = (replace(pool, parallelism=own) for pool, own in zip(plan.pools, degrees, strict=True))
    alone = replace(plan, pools=tuple(pools))
    (tmp_path / "plan").mkdir()
    for path in folder.rglob("*"):
        target = tmp_path / "plan" / path.relative_to(folder)
        target.mkdir(parents=True, exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    (tmp_path / "plan" / "plan.json").write_bytes(dump_plan(alone))
    with pytest.raises(JobError, match=r"Name one: --degree h100-x8=tp2"):
        share_out(tmp_path / "plan", tmp_path / "shards", {})


def test_examples_have_the_weights_that_these_tests_need() -> None:
    assert (EXAMPLES / "models" / "llama.int4" / "model.onnx").is_file()
    assert TINY.is_file()
