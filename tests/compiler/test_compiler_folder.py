"""The plan folder: the same bytes from the same input, whole or not at all."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
from jobs import EXAMPLES, TINY, tiny_job, tiny_plan, write_job

from disaggc import compiler
from disaggc.backends import plan_folder
from disaggc.compiler import Options, compile_job
from disaggc.errors import DeclarationError, OutputError
from disaggc.plans import Plan, open_plan
from disaggc.targets import figures, load_library


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def plan(tiny: Path) -> Plan:
    return open_plan(tiny)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# The same bytes ---------------------------------------------------------------------------------


def test_the_same_job_gives_the_same_bytes_in_another_folder(tiny: Path, tmp_path: Path) -> None:
    compile_job(tiny_job(), EXAMPLES, tmp_path / "elsewhere" / "again")
    assert _contents(tmp_path / "elsewhere" / "again") == _contents(tiny)


def test_the_same_job_gives_the_same_bytes_in_a_fresh_process(tiny: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    command = [sys.executable, "-m", "disaggc.cli", "compile", str(job), "-o", str(tmp_path / "plan")]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    assert _contents(tmp_path / "plan") == _contents(tiny)


def test_only_the_path_of_the_model_depends_on_where_it_lies(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / TINY.name).write_bytes(TINY.read_bytes())
    compile_job(tiny_job(), tmp_path, tmp_path / "plan")
    moved, here = _contents(tmp_path / "plan"), _contents(tiny)
    assert {name for name in here if moved[name] != here[name]} == {"model.path"}
    assert moved["model.path"].decode() == f"{(tmp_path / 'models').resolve()}\n"


# What is in it ------------------------------------------------------------------------------------


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "ops.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_op_is_in_the_table_once_for_each_phase(tiny: Path) -> None:
    nodes = onnx.load(TINY, load_external_data=False).graph.node
    wanted = Counter((phase, node.op_type) for phase in ("prefill", "decode") for node in nodes)
    rows = _rows(tiny)
    assert Counter((row["phase"], row["op"].rpartition("::")[2]) for row in rows) == wanted
    assert len({(row["phase"], row["node"]) for row in rows}) == len(rows)


def test_the_table_puts_ops_where_the_stages_are(tiny: Path, plan: Plan) -> None:
    stages = {"prefill": plan.prefill.stages, "decode": plan.decode.stages}
    pools = {(phase, str(s.index)): s.pool for phase, found in stages.items() for s in found}
    rows = _rows(tiny)
    assert all(pools[row["phase"], row["stage"]] == row["pool"] for row in rows)
    assert {(row["phase"], row["stage"]) for row in rows} == set(pools)


def test_core_attention_is_decoded_on_hbm_and_experts_on_sram(tiny: Path) -> None:
    decode = [row for row in _rows(tiny) if row["phase"] == "decode"]
    assert {row["pool"] for row in decode if row["role"] == "core_attention"} == {"vr-nvl72"}
    assert {row["pool"] for row in decode if row["role"] == "experts"} == {"groq3-lpx"}


def test_the_table_of_ops_adds_up_to_the_loads_of_the_plan(tiny: Path, plan: Plan) -> None:
    sums: dict[tuple[str, str, str], float] = {}
    for row in _rows(tiny):
        if row["flops"]:
            key = (row["phase"], row["role"], row["pool"])
            sums[key] = sums.get(key, 0.0) + float(row["flops"])
    assert sums == pytest.approx({(x.phase, x.role, x.pool): x.flops for x in plan.loads}, rel=1e-6)
    assert all((row["flops"] == "") == (row["role"] == "auxiliary") for row in _rows(tiny))


def test_every_number_of_the_fleets_machines_is_in_the_folder(tiny: Path) -> None:
    with (tiny / "machines.csv").open(encoding="utf-8", newline="") as file:
        rows = {(row["system"], row["figure"]): row for row in csv.DictReader(file)}
    library = load_library()
    for name in ("vr-nvl72", "groq3-lpx"):
        for what, figure in figures(library.system(name)):
            row = rows[name, what]
            assert float(row["value"]) == pytest.approx(figure.value)
            told = (row["unit"], row["confidence"], row["source"])
            assert told == (figure.unit, figure.confidence.value, figure.source)
    assert rows["groq3-lpx", "rate.fp8"]["value"] == "1.2"


def test_each_pool_fits_its_memory_and_its_fleet(plan: Plan) -> None:
    for pool in plan.pools:
        p = pool.parallelism
        assert 0 < pool.memory.used <= pool.memory.capacity
        assert pool.devices == p.tp * p.dp * p.pp <= pool.available
        assert 0 < pool.utilisation <= 1


def test_a_prediction_is_no_better_with_transfers_exposed_than_hidden(plan: Plan) -> None:
    p = plan.prediction
    assert p.tpot_us.conservative >= p.tpot_us.optimistic > 0
    assert p.ttft_us.conservative >= p.ttft_us.optimistic > 0
    assert p.tokens_per_s.conservative <= p.tokens_per_s.optimistic


def test_a_prediction_is_what_its_schedule_comes_to(plan: Plan) -> None:
    in_flight = plan.schedule.micro_batch * plan.schedule.micro_batches
    seconds = plan.prediction.tpot_us.conservative / 1e6
    assert plan.prediction.tokens_per_s.conservative == pytest.approx(in_flight / seconds)
    assert plan.certificate.value == pytest.approx(plan.prediction.tokens_per_s.conservative)
    assert plan.prediction.tokens_per_s_per_user.conservative >= plan.goal.tokens_per_s_per_user
    assert plan.prediction.ttft_us.conservative <= plan.goal.ttft_ms * 1e3


def test_a_certificate_says_that_the_checker_agrees(plan: Plan) -> None:
    certificate = plan.certificate
    assert (certificate.status, certificate.checked) == ("optimal", True)
    assert 0 <= certificate.gap <= certificate.tolerance
    assert 0 < certificate.solved < certificate.candidates


def test_transfers_carry_what_the_sender_writes_and_the_receiver_reads(plan: Plan) -> None:
    for phase in (plan.decode, plan.prefill):
        for transfer in phase.transfers:
            sender = phase.stages[transfer.after]
            later = [s for s in phase.stages[transfer.after + 1 :] if s.pool == transfer.target]
            assert sender.pool == transfer.source != transfer.target
            assert set(transfer.tensors) <= set(sender.outputs)
            assert set(transfer.tensors) <= {name for stage in later for name in stage.inputs}
            assert transfer.bytes_per_token > 0
    assert plan.decode.transfers


def test_chosen_and_rejected_modes_are_all_there(plan: Plan) -> None:
    assert [a.mode for a in plan.alternatives if a.chosen] == [plan.mode]
    assert len(plan.alternatives) == 6
    rejected = [f"{a.mode}: {a.reason}" for a in plan.alternatives if not a.feasible]
    assert list(plan.rejections) == rejected


# Whole or not at all --------------------------------------------------------------------------------


class _Stop(Exception):  # noqa: N818 - stands for any failure
    pass


def _failing(*_: Any) -> None:
    raise _Stop


def test_a_failure_in_the_middle_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "write_plan", _failing)
    with pytest.raises(_Stop):
        compile_job(tiny_job(), EXAMPLES, tmp_path / "plan")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_replacing_puts_the_old_plan_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "plan"
    output.mkdir()
    (output / "plan.json").write_text("old", encoding="utf-8")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target == output and not path.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    message = rf"Cannot write '{output}': No space left on device\."
    with pytest.raises(OutputError, match=message), plan_folder.fresh_folder(output, force=True) as folder:
        (folder / "plan.json").write_text("new", encoding="utf-8")
    assert _contents(tmp_path) == {"plan/plan.json": b"old"}


def test_a_parent_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(OutputError, match=rf"Cannot write to '{tmp_path}': Permission denied\."):
        compile_job(tiny_job(), EXAMPLES, tmp_path / "plan")


@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_the_way_is_kept(tmp_path: Path, force: bool) -> None:
    (tmp_path / "plan").write_text("mine", encoding="utf-8")
    message = r"'.*plan' is a file, and a plan is a folder\. Choose another name\."
    with pytest.raises(OutputError, match=message):
        compile_job(tiny_job(), EXAMPLES, tmp_path / "plan", Options(force=force))
    assert (tmp_path / "plan").read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_is_filled_with_force(tmp_path: Path) -> None:
    with plan_folder.fresh_folder(tmp_path, force=True) as folder:
        (folder / "plan.json").write_text("new", encoding="utf-8")
    assert _contents(tmp_path) == {"plan.json": b"new"}


# How ----------------------------------------------------------------------------------------------


def test_each_pass_is_shown_in_the_declared_order() -> None:
    seen: list[str] = []
    compiler.analyse(TINY, Options(after_pass=lambda name, _: seen.append(name)))
    assert seen.index("pair-state") < seen.index("find-layers") < seen.index("assign-roles")
    assert seen.index("assign-roles") < seen.index("annotate-cost") < seen.index("segment")


def test_an_unknown_pipeline_is_refused_with_the_nearest() -> None:
    with pytest.raises(DeclarationError, match=r"No pipeline named 'defualt' .* Did you mean 'default'\?"):
        compiler.analyse(TINY, Options(pipeline="defualt"))


@pytest.mark.parametrize("name", ["full.qwen3_235b.moe_op", "full.llama3_70b.torch"])
def test_a_plan_of_a_model_of_real_size_is_under_a_megabyte(name: str) -> None:
    golden = Path(__file__).resolve().parents[2] / "plans" / "golden"
    sizes = {p.parent.name: p.stat().st_size for p in golden.glob("*/plan.json")}
    assert sizes[name.split(".")[1]] < 1_000_000
