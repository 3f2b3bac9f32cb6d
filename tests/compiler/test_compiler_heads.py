"""LM heads in pieces: plans that say and do what those with a whole head do, stage by stage."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from headed import EMBEDDING, HIDDEN, VOCABULARY, headed, planned
from jobs import small_job
from known_machine import known_job

from disaggc.backends.emitters import Settings, emit
from disaggc.backends.plan_folder import write_plan
from disaggc.calibration import forecast
from disaggc.cli import main
from disaggc.compiler import Model, Options, compile_job
from disaggc.ir import Phase, Role
from disaggc.placement import heads
from disaggc.placement.decide import Decision
from disaggc.placement.heads import HeadPieces
from disaggc.placement.stages import Span
from disaggc.plans import Plan, Stage, head_pieces, open_plan, with_whole_heads
from disaggc.runtime import Execution, RunResult, deploy, run, verify

FAST = 50e9
"""Bytes of weights streamed in a second where even the head, of one MiB, does not take long."""
PROMPTS = [[5, 7, 11, 13, 2], [1, 2, 3], [9, 8, 7, 6]]
FORMS = ("tied", "softcap", "cast", "gemm", "normed")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """A plan folder in which the head is in pieces, its model beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("tied")
    return folder, planned(headed(folder / "m.onnx"), folder / "plan")


def pieces_of(plan: Plan) -> list[Stage]:
    named = head_pieces(plan.decode.stages)
    return [stage for stage in plan.decode.stages if stage.index in named]


def rows(folder: Path) -> Iterator[dict[str, str]]:
    with (folder / "ops.csv").open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


# How many -----------------------------------------------------------------------------------------


def test_no_piece_is_shorter_than_the_longest_other_stage_of_its_pool(tied: tuple[Path, Plan]) -> None:
    plan = tied[1]
    pieces = pieces_of(plan)
    others = [s for s in plan.decode.stages if s.pool == pieces[0].pool and s not in pieces]
    longest, head = max(s.time_us for s in others), sum(s.time_us for s in pieces)
    assert len(pieces) == min(int(head / longest), int(head / heads.LEAST_US)) > 2
    assert len(plan.decode.transfers) > 2
    assert {s.pool for s in pieces} != {s.pool for s in plan.decode.stages}


def test_a_head_becomes_no_more_pieces_than_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MOST", 3)
    plan = planned(headed(tmp_path / "m.onnx"), tmp_path / "plan")
    assert len(pieces_of(plan)) == 3


@pytest.mark.parametrize(
    ("micro_batches", "mode", "bytes_per_s"),
    [(1, "afd", 1e9), (3, "colocated on here", 1e9), (3, "afd", FAST)],
    ids=["alone", "together", "short"],
)
def test_a_head_that_keeps_nobody_waiting_stays_whole(
    micro_batches: int, mode: str, bytes_per_s: float, tmp_path: Path
) -> None:
    plan = planned(headed(tmp_path / "m.onnx"), tmp_path / "plan", micro_batches, mode, bytes_per_s)
    assert not head_pieces(plan.decode.stages)
    assert not plan.warnings


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("columns", "its weight 'head' [64, 4096] has no column in one run of bytes"),
        ("two", "it has 2 products of matrices"),
    ],
)
def test_a_head_that_cannot_be_cut_stays_whole_and_the_plan_says_why(
    form: str, why: str, tmp_path: Path
) -> None:
    plan = planned(headed(tmp_path / "m.onnx", form), tmp_path / "plan")
    assert not head_pieces(plan.decode.stages)
    (warning,) = plan.warnings
    assert warning.startswith("the LM head (1,0")
    assert warning.endswith(f"pieces would be better: {why}.")


# What is predicted --------------------------------------------------------------------------------


def test_pieces_share_what_the_head_takes_and_change_no_prediction(
    tied: tuple[Path, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tied[1]
    monkeypatch.setattr(heads, "MOST", 1)
    whole = planned(headed(tmp_path / "m.onnx"), tmp_path / "plan")
    assert not head_pieces(whole.decode.stages)
    took, takes = (sum(s.time_us for s in p.decode.stages) for p in (whole, plan))
    assert takes == pytest.approx(took)
    assert (plan.prediction, plan.certificate, plan.schedule) == (
        whole.prediction,
        whole.certificate,
        whole.schedule,
    )
    assert (plan.loads, plan.moves, plan.pools) == (whole.loads, whole.moves, whole.pools)
    assert forecast(plan, 1).step_us == pytest.approx(forecast(whole, 1).step_us)
    assert forecast(plan, 3).tokens_per_s > 1.1 * forecast(whole, 3).tokens_per_s


# What is written ----------------------------------------------------------------------------------


def test_pieces_refer_to_neighbouring_rows_of_the_stored_weight(tied: tuple[Path, Plan]) -> None:
    folder, plan = tied
    table = json.loads((folder / "plan/subgraphs/weights.json").read_text(encoding="utf-8"))["parts"]
    source = onnx.load(folder / "m.onnx", load_external_data=False)
    stored = next(t for t in source.graph.initializer if t.name == EMBEDDING)
    at = int({e.key: e.value for e in stored.external_data}["offset"])
    for stage in pieces_of(plan):
        subgraph = onnx.load(folder / "plan" / stage.subgraph, load_external_data=False)
        (tensor,) = subgraph.graph.initializer
        place, use = {e.key: e.value for e in tensor.external_data}, table[stage.subgraph][tensor.name]
        assert (use["file"], use["offset"], use["length"]) == ("weights.bin", at, int(place["length"]))
        assert use["shape"] == list(tensor.dims) == [use["length"] // 4 // HIDDEN, HIDDEN]
        assert use["dtype"] == "float32"
        at += use["length"]
    assert at == int({e.key: e.value for e in stored.external_data}["offset"]) + VOCABULARY * HIDDEN * 4
    looked_up = [uses[EMBEDDING] for uses in table.values() if EMBEDDING in uses]
    assert looked_up
    assert {tuple(use["shape"]) for use in looked_up} == {(VOCABULARY, HIDDEN)}


def test_every_op_of_the_model_is_in_the_table_once_at_a_stage_of_its_pool(tied: tuple[Path, Plan]) -> None:
    folder, plan = tied
    nodes = onnx.load(folder / "m.onnx", load_external_data=False).graph.node
    phases = {"prefill": plan.prefill.stages, "decode": plan.decode.stages}
    found = list(rows(folder / "plan"))
    for phase, stages in phases.items():
        own = [row for row in found if row["phase"] == phase]
        assert [int(row["node"]) for row in own] == list(range(len(nodes)))
        assert [(row["name"], row["op"].rpartition("::")[2]) for row in own] == [
            (node.name, node.op_type) for node in nodes
        ]
        assert all(stages[int(row["stage"])].pool == row["pool"] for row in own)
    product = next(row for row in found if row["name"] == "project" and row["phase"] == "decode")
    assert int(product["stage"]) == pieces_of(plan)[-1].index


def test_the_same_job_gives_the_same_bytes_with_a_head_in_pieces(
    tied: tuple[Path, Plan], tmp_path: Path
) -> None:
    planned(headed(tmp_path / "m.onnx"), tmp_path / "plan")
    for path in sorted((tied[0] / "plan").rglob("*")):
        if path.is_file() and path.name != "model.path":
            assert (tmp_path / "plan" / path.relative_to(tied[0] / "plan")).read_bytes() == path.read_bytes()


# What it computes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [True, False], ids=["beside", "within"])
@pytest.mark.parametrize("form", FORMS)
def test_a_head_in_pieces_gives_the_logits_of_the_whole_model(
    form: str, external: bool, tmp_path: Path
) -> None:
    path = headed(tmp_path / "m.onnx", form, external)
    plan = planned(path, tmp_path / "plan")
    assert len(pieces_of(plan)) > 2
    sizes = [(tmp_path / "plan" / stage.subgraph).stat().st_size for stage in pieces_of(plan)]
    assert max(sizes) < 4096, "weights are referenced, not copied"
    found = verify(plan, tmp_path / "plan", tmp_path, PROMPTS, 12)
    assert found.tokens_equal
    assert found.difference <= 1e-6 * found.magnitude


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_processes_give_the_tokens_of_one_process(tied: tuple[Path, Plan], micro_batches: int) -> None:
    folder, plan = tied
    with deploy(plan, folder / "plan", folder, 1) as deployment:
        expected = deployment.generate(PROMPTS, 40, keep_logits=True)
    apart = Execution(on="processes", micro_batch=1, micro_batches=micro_batches)
    with deploy(plan, folder / "plan", folder, 1, apart) as deployment:
        found = deployment.generate(PROMPTS, 40, keep_logits=True)
    assert found.tokens == expected.tokens
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    calls = {s.calls for s in found.stages if s.phase == "decode"}
    assert len(calls) == 1, "every piece once a step"


# A head that shares its stage ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """A plan in which one pool has everything but core attention, and both phases have the same stages."""
    folder = tmp_path_factory.mktemp("shared")
    others = set(Role) - {Role.CORE_ATTENTION}
    return folder, parted(headed(folder / "m.onnx", "softcap"), others, folder)


def parted(path: Path, away: Collection[Role], folder: Path) -> Plan:
    """A plan in ``folder`` with these roles on one pool, and the others on another, in both phases."""
    planned(path, folder / "any")  # for the library that it declares
    job = known_job(path.name, "afd", 3)
    tier, best = Model(path, Options(library=folder / "library")).decided(job, folder)
    apart = tuple(int(piece.role in away) for piece in best.decision.request.pieces.pieces) * 2
    decision = replace(best.decision, answer=replace(best.decision.answer, assignment=apart))
    (folder / "plan").mkdir()
    return write_plan(job, tier, best.source, best.graph, decision, folder / "plan")


def test_what_comes_before_the_head_is_a_stage_of_its_own(shared: tuple[Path, Plan]) -> None:
    plan = shared[1]
    pieces = pieces_of(plan)
    assert len(pieces) == len(plan.decode.stages) - pieces[0].index > 2
    before = plan.decode.stages[pieces[0].index - 1]
    assert before.pool == pieces[0].pool
    assert "ffn" in before.roles
    assert "head" not in before.roles
    assert {piece.roles for piece in pieces} == {("head",)}
    assert before.time_us <= pieces[1].time_us


def test_a_norm_before_the_head_is_no_stage_of_its_own(tmp_path: Path) -> None:
    """It takes a few microseconds, and one more call of a session would take longer."""
    plan = parted(headed(tmp_path / "m.onnx", "normed"), {Role.FFN}, tmp_path)
    first, *others = pieces_of(plan)
    assert first.roles == ("norm", "head")
    assert plan.decode.stages[first.index - 1].roles == ("ffn",)
    assert {piece.roles for piece in others} == {("head",)}
    found = verify(plan, tmp_path / "plan", tmp_path, PROMPTS, 12)
    assert found.tokens_equal
    assert found.difference <= 1e-6 * found.magnitude


def test_phases_of_equal_stages_share_the_pieces_too(shared: tuple[Path, Plan]) -> None:
    folder, plan = shared
    assert [s.subgraph for s in plan.prefill.stages] == [s.subgraph for s in plan.decode.stages]
    assert {Path(s.subgraph).name[:6] for s in plan.decode.stages} == {"stage_"}
    found = verify(plan, folder / "plan", folder, PROMPTS, 12)
    assert found.tokens_equal
    assert found.difference <= 1e-6 * found.magnitude


def test_what_caps_the_logits_is_in_the_last_piece(shared: tuple[Path, Plan]) -> None:
    folder, plan = shared
    *others, last = (
        [
            node.op_type
            for node in onnx.load(folder / "plan" / s.subgraph, load_external_data=False).graph.node
        ]
        for s in pieces_of(plan)
    )
    assert all(kinds == ["Transpose", "MatMul"] for kinds in others)
    assert last == ["Transpose", "MatMul", "Concat", "Div", "Tanh", "Mul"]


# In one process -------------------------------------------------------------------------------------


def test_a_plan_also_has_the_head_as_one_stage(tied: tuple[Path, Plan]) -> None:
    plan = tied[1]
    pieces, whole = pieces_of(plan), plan.decode.whole_head
    assert whole is not None
    assert (whole.index, whole.pool, whole.roles) == (pieces[0].index, pieces[0].pool, ("head",))
    assert whole.outputs == pieces[-1].outputs
    assert set(whole.inputs) == set(pieces[0].inputs)
    assert whole.time_us == pytest.approx(sum(piece.time_us for piece in pieces), rel=1e-6)
    assert whole.subgraph in plan.files
    assert plan.prefill.whole_head is None, "prefill has it in one stage anyway"


@pytest.mark.parametrize("form", FORMS)
def test_one_process_runs_the_head_as_one_stage(form: str, tmp_path: Path) -> None:
    plan = planned(headed(tmp_path / "m.onnx", form), tmp_path / "plan")
    pieces = Execution(whole_heads=False)
    found, expected = (
        run(plan, tmp_path / "plan", tmp_path, PROMPTS, 12, keep_logits=True, execution=execution)
        for execution in (Execution(), pieces)
    )
    assert _decoded(expected) == [stage.index for stage in plan.decode.stages]
    assert _decoded(found) == _decoded(expected)[: 1 - len(pieces_of(plan))]
    assert found.tokens == expected.tokens
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "execution", [Execution(traced=True), Execution(micro_batches=2)], ids=["traced", "two"]
)
def test_pieces_are_run_where_they_are_looked_at_or_serve_somebody(
    execution: Execution, tied: tuple[Path, Plan]
) -> None:
    folder, plan = tied
    found = run(plan, folder / "plan", folder, PROMPTS, 4, execution=execution)
    assert _decoded(found) == [stage.index for stage in plan.decode.stages]


def test_a_verification_runs_every_stage(tied: tuple[Path, Plan]) -> None:
    folder, plan = tied
    found = verify(plan, folder / "plan", folder, PROMPTS, 4)
    assert _decoded(found.planned) == [stage.index for stage in plan.decode.stages]


def _decoded(result: RunResult) -> list[int]:
    return [stage.index for stage in result.stages if stage.phase == "decode" and stage.calls]


def test_stages_behind_a_head_move_up(tied: tuple[Path, Plan]) -> None:
    plan = tied[1]
    pieces, count = pieces_of(plan), len(plan.decode.stages)
    sampler = replace(plan.decode.stages[0], index=count, roles=("general",))
    hops = tuple(replace(plan.decode.transfers[0], after=i) for i in (pieces[0].index - 1, pieces[-1].index))
    longer = replace(plan.decode, stages=(*plan.decode.stages, sampler), transfers=hops)
    found = with_whole_heads(replace(plan, decode=longer)).decode
    assert [stage.index for stage in found.stages] == list(range(count - len(pieces) + 2))
    assert [stage.roles for stage in found.stages[-2:]] == [("head",), ("general",)]
    assert [t.after for t in found.transfers] == [pieces[0].index - 1, pieces[0].index]


# What else is done with such a plan -----------------------------------------------------------------


@pytest.mark.parametrize("which", ["tied", "shared"])
@pytest.mark.parametrize("backend", ["ort-package", "onnx"])
def test_such_a_plan_is_emitted(
    which: str, backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder, plan = request.getfixturevalue(which)
    library = ["--library", str(folder / "library")]
    assert (
        main(["emit", str(folder / "plan"), "--backend", backend, "-o", str(tmp_path / "out"), *library]) == 0
    )
    if backend == "onnx":
        (written,) = (tmp_path / "out").rglob("*.onnx")
        nodes = onnx.load(written, load_external_data=False).graph.node
        product = next(node for node in nodes if node.name == "project")
        stages = {noted.configuration_id: noted.pipeline_stage for noted in product.device_configurations}
        assert stages[Phase.DECODE.value] == pieces_of(plan)[-1].index
    else:
        components = {path.stem for path in (tmp_path / "out").rglob("*.onnx")}
        assert {Path(stage.subgraph).stem for stage in pieces_of(plan)} <= components


def test_such_a_plan_is_explained_reported_and_compared(
    tied: tuple[Path, Plan], shared: tuple[Path, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tied[0] / "plan")
    assert main(["explain", folder]) == 0
    assert "head in pieces" in capsys.readouterr().out
    assert main(["report", folder, "-o", str(tmp_path / "report.html")]) == 0
    count = len(pieces_of(tied[1]))
    assert f"piece {count} of {count}" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main(["diff", folder, str(shared[0] / "plan")]) == 0
    assert main(["verify", folder, "--max-new-tokens", "4"]) == 0


def test_such_a_plan_is_shared_out_and_still_runs(shared: tuple[Path, Plan], tmp_path: Path) -> None:
    folder, plan = shared
    degree = f"{pieces_of(plan)[0].pool}=tp2"
    assert main(["shard", str(folder / "plan"), "--degree", degree, "-o", str(tmp_path / "out")]) == 0
    assert main(["verify", str(tmp_path / "out"), "--max-new-tokens", "6"]) == 0
    placed = [row for row in rows(tmp_path / "out") if row["role"] == "head"]
    assert placed
    assert {row["pool"] for row in placed} == {f"{pieces_of(plan)[0].pool}/0"}
    assert open_plan(tmp_path / "out").decode.whole_head is None


# Heads of real models --------------------------------------------------------------------------------


def in_three(_: Decision, spans: Sequence[Span]) -> HeadPieces:
    """Any head, however short."""
    index = next(i for i, span in enumerate(spans) if span.segments[-1].role is Role.HEAD)
    *ahead, head = spans[index].segments
    return HeadPieces(index, head, tuple(ahead), 3, 0.0)


@pytest.mark.parametrize("name", ["genai.llama.int4", "gemma3.dynamo.op18"])
def test_heads_of_exporters_run_in_pieces(
    name: str, runnable: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runnable(name)
    monkeypatch.setattr("disaggc.backends.heads.head_pieces", in_three)
    plan = compile_job(small_job(path.name, {"h100-x8": 1}, 8), path.parent, tmp_path / "plan")
    assert not plan.warnings
    assert [stage.roles for stage in plan.decode.stages[1:]] == [("head",)] * 3
    found = verify(plan, tmp_path / "plan", path.parent, PROMPTS, 8)
    assert found.tokens_equal
    assert found.difference <= 1e-6 * found.magnitude


def test_genai_runs_a_head_in_pieces(
    runnable: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    path = runnable("genai.llama.int4")
    monkeypatch.setattr("disaggc.backends.heads.head_pieces", in_three)
    plan = compile_job(small_job(path.name, {"h100-x8": 1}, 8), path.parent, tmp_path / "plan")
    emit(tmp_path / "plan", "ort-genai", tmp_path / "out", Settings())
    with deploy(plan, tmp_path / "plan", path.parent, 1) as deployment:
        expected = deployment.generate([[1, 5, 9, 7, 33]], 8).tokens[0]
    model = genai.Model(str(tmp_path / "out"))
    options = genai.GeneratorParams(model)
    options.set_search_options(max_length=13, min_length=13)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array([[1, 5, 9, 7, 33]], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    assert tuple(int(token) for token in generator.get_sequence(0))[5:] == expected
