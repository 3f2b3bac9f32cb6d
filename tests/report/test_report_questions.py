"""Answers about a plan: every number in them is the plan's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import tiny_plan, write_job

from disaggc import cli
from disaggc.errors import JobError
from disaggc.plans import Plan, open_plan, parse_plan
from disaggc.report.console import amount, duration
from disaggc.report.prose import limited, paragraph, verdict
from disaggc.report.questions import place_of, what_binds, why, why_not

GOLDEN = Path(__file__).resolve().parents[2] / "plans" / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return open_plan(folder)


def _golden(name: str) -> Plan:
    return parse_plan((GOLDEN / name / "plan.json").read_bytes(), name)


# The paragraph ------------------------------------------------------------------------------------


def test_a_verdict_says_where_attention_and_experts_are(plan: Plan) -> None:
    told = verdict(plan)
    assert told.startswith(
        "In decode, attention runs on 72 rubin of vr-nvl72 and experts on 8 lp30 of groq3-lpx; prefill runs "
        "on 8 lp30 of groq3-lpx."
    )
    assert f"{plan.prediction.tokens_per_s_per_user.conservative:,.0f} tokens/s for each user" in told
    assert "25% over the 400 that the tier asks for" in told


def test_a_verdict_of_other_modes_says_so() -> None:
    assert verdict(_golden("llama3_70b")).startswith(
        "Layers decode on 256 lp30 of groq3-lpx; prefill runs on 64 rubin of vr-nvl72."
    )
    assert "prefill is shared by both" in verdict(_golden("qwen3_235b"))
    plan = _golden("tiny_moe")
    assert verdict(replace(plan, pools=plan.pools[:1])).startswith("Everything runs on 72 rubin of vr-nvl72.")


def test_a_paragraph_says_what_binds_what_else_there_is_and_how_far_to_trust_it(plan: Plan) -> None:
    told = paragraph(plan)
    best = next(a for a in plan.alternatives if a.feasible and not a.chosen)
    assert "A step is limited because vr-nvl72 is busy all the time." in told
    assert f"The next best mode, {best.mode}, gives {best.loss:.1%} fewer tokens/s." in told
    assert f"{len(plan.inferred)} of the numbers behind it are inferred" in told


def test_a_plan_that_is_not_proven_is_not_called_so(plan: Plan) -> None:
    doubted = replace(plan, certificate=replace(plan.certificate, status="unproven"))
    assert "It is not proven best of" in paragraph(doubted)


def test_an_explanation_begins_with_the_paragraph_in_a_hundred_columns(
    folder: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", str(folder)]) == 0
    first, _, _ = capsys.readouterr().out.partition("\n\n")
    assert " ".join(first.split()) == paragraph(plan)
    assert max(map(len, first.splitlines())) <= 100


# Why ----------------------------------------------------------------------------------------------


def test_why_attention_is_there_gives_its_time_memory_and_what_moving_it_takes(plan: Plan) -> None:
    load = next(x for x in plan.loads if (x.phase, x.role) == ("decode", "core_attention"))
    move = next(x for x in plan.moves if (x.phase, x.role) == ("decode", "core_attention"))
    told = " ".join(why(plan, "attention"))
    assert "In decode, core attention is on vr-nvl72 (72 rubin)" in told
    assert duration(load.time_us) in told
    assert f"keeps {amount(load.cache_bytes, 'B')} of cache for it" in told
    assert (
        f"Moved to groq3-lpx in decode, everything else as planned, it does not fit: {move.reason}." in told
    )


def test_why_experts_are_there_gives_the_loss_of_moving_them(plan: Plan) -> None:
    move = next(x for x in plan.moves if (x.phase, x.role) == ("decode", "experts"))
    told = " ".join(why(plan, "ffn"))
    assert move.loss is not None
    assert (
        f"Moved to vr-nvl72 in decode, everything else as planned, there would be {move.loss:.1%} fewer"
        in told
    )
    best = next(a for a in plan.alternatives if a.feasible and place_of(a.mode, "experts") == "vr-nvl72")
    assert f"({best.mode}, " in told


def test_a_move_that_the_tier_forbids_is_called_so() -> None:
    told = " ".join(why(_golden("qwen3_235b"), "experts"))
    assert "which the tier forbids: 165 tokens/s/user would come out, and the tier asks for 200." in told
    assert (
        "Decoded on vr-nvl72, everything else free, it has no plan that meets the tier (colocated on" in told
    )


@pytest.mark.parametrize(
    ("mode", "role", "place"),
    [
        ("colocated on a", "experts", "a"),
        ("P/D: prefill on a, decode on b", "core_attention", "b"),
        ("P/D: prefill on a, decode on b but head on a", "ffn", "b"),
        ("AFD: attention on a, FFN on b", "core_attention", "a"),
        ("AFD: attention on a, FFN on b", "experts", "b"),
        ("AFD: attention on a, FFN on b", "head", ""),
        ("mixed: prefill on a, decode on a and b", "experts", ""),
    ],
)
def test_a_modes_name_says_where_it_decodes(mode: str, role: str, place: str) -> None:
    assert place_of(mode, role) == place


# Why not ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "count"), [("colocated", 2), ("pd", 2), ("AFD", 2), ("ffn on vr-nvl72", 1)]
)
def test_why_not_answers_for_every_mode_of_that_kind(plan: Plan, asked: str, count: int) -> None:
    assert len(why_not(plan, asked)) == count


def test_why_not_gives_the_loss_or_the_reason(plan: Plan) -> None:
    told = why_not(plan, "colocated")
    for sentence, mode in zip(told, ("colocated on vr-nvl72", "colocated on groq3-lpx"), strict=True):
        alternative = next(a for a in plan.alternatives if a.mode == mode)
        if alternative.feasible:
            assert f"{alternative.loss:.1%} less" in sentence
        else:
            assert sentence == f"{mode} has no plan that meets the tier: {alternative.reason}."


def test_why_not_the_plan_itself_says_that_it_is_the_plan(plan: Plan) -> None:
    assert why_not(plan, plan.mode)[0].startswith(f"It is {plan.mode}: ")


# What binds ---------------------------------------------------------------------------------------


def test_what_binds_goes_through_every_limit(plan: Plan) -> None:
    told = what_binds(plan)
    p = plan.prediction
    assert told[0] == f"A step is {limited(p.bottleneck)}."
    assert any(f"first token within {plan.goal.ttft_ms:,.4g} ms" in sentence for sentence in told)
    for pool in plan.pools:
        assert any(sentence.startswith(f"A device of {pool.name} is ") for sentence in told)
    assert told[-1].startswith(f"{len(plan.decode.transfers)} transfers take ")


def test_a_path_that_binds_is_taken_apart() -> None:
    plan = _golden("llama3_70b")
    told = what_binds(plan)
    assert told[0] == "A step is limited by the path of one token through all layers (latency)."
    assert told[1].startswith(f"Of its {duration(plan.prediction.path_us)}, it spends ")


# The command --------------------------------------------------------------------------------------


def test_answers_for_programs(folder: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["explain", str(folder), "--why", "ffn", "--why-not", "pd", "--what-binds", "--json"]
    assert cli.main(asked) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert answers == {
        "why ffn": why(plan, "ffn"),
        "why not pd": why_not(plan, "pd"),
        "what binds": what_binds(plan),
    }


def test_answers_fit_a_hundred_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", str(folder), "--why", "attention", "--what-binds"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--why", "atention"], "The plan has no part named 'atention'. Did you mean 'attention'?"),
        (["--why-not", "afdd"], "No mode named 'afdd' was searched. Did you mean 'afd'?"),
        (
            ["--one-more", "groq4-lpx"],
            "No target named 'groq4-lpx' in targets/systems. Did you mean 'groq3-lpx'?",
        ),
    ],
)
def test_a_question_that_has_no_answer_is_refused(
    folder: Path, asked: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", str(folder), *asked]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_one_more_rack_is_a_command_and_with_the_job_its_answer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", str(folder), "--one-more", "groq3-lpx"]) == 0
    assert "disaggc compare JOB.toml --with groq3-lpx=1,2" in capsys.readouterr().out
    job = str(write_job(tmp_path))
    assert cli.main(["explain", str(folder), "--one-more", "groq3-lpx", "--job", job, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["input"], [row["value"] for row in data["rows"]]) == ("groq3-lpx", [1, 2])


def test_a_plan_without_loads_still_explains_itself(plan: Plan) -> None:
    bare = replace(plan, loads=(), moves=(), frontier=())
    assert "72 rubin of vr-nvl72: decode: core_attention" in paragraph(bare)
    assert what_binds(bare)
    with pytest.raises(JobError, match="has no part named 'attention'"):
        why(bare, "attention")
