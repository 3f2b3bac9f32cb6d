"""Answers about a fleet, tier by tier; every number in them is the plan's, or the compiler's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import EXAMPLES, TINY, fleet_folder, tiny_plan, two_tiers

from disaggc import cli
from disaggc.commands.arguments import opened_fleet
from disaggc.errors import JobError
from disaggc.plans import ModeReport, TierPlan, open_job, parse_fleet, varied
from disaggc.report import Fleet, fleet_growth, fleet_what_binds, fleet_why, fleet_why_not, tiers_named
from disaggc.report.console import figure
from disaggc.report.fleet_growth import growth_sentences

GOLDEN = Path(__file__).resolve().parents[2] / "plans" / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fleet_folder(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Fleet:
    return opened_fleet(folder)


def _large(tier: str) -> tuple[Fleet, TierPlan]:
    """A large fleet's plan, its deployments left out, and a tier of it."""
    plan = parse_fleet((GOLDEN / "vr_lpx5" / "plan.json").read_bytes(), "vr_lpx5")
    return Fleet(plan, {}), tiers_named(plan, tier)[0]


def test_a_tier_is_known_by_its_last_word_too(fleet: Fleet) -> None:
    assert [t.name for t in tiers_named(fleet.plan, "premium")] == ["gtc2026/premium"]
    assert tiers_named(fleet.plan, "gtc2026/high") == [fleet.plan.tiers[0]]
    assert tiers_named(fleet.plan, "") == list(fleet.plan.tiers)
    with pytest.raises(JobError, match=r"serves no tier named 'premum'\. Did you mean 'premium'\?"):
        tiers_named(fleet.plan, "premum")


# What binds? -----------------------------------------------------------------------------------


def test_what_binds_says_what_a_tier_gets_and_of_each_replica_what_limits_it(fleet: Fleet) -> None:
    for tier in fleet.plan.tiers:
        told = fleet_what_binds(fleet, tier)
        served = f"{figure(tier.served_requests_per_s)} of {figure(tier.requests_per_s)} requests/s"
        assert told[0].startswith(f"{tier.name} gets {served}")
        for replica in fleet.replicas(tier):
            mine = [line for line in told if line.startswith(f"{replica.name}: ")]
            assert f"{replica.utilisation:.0%} used" in mine[0]
            bound = fleet.deployed[replica.name].prediction.bottleneck
            assert any(bound in line for line in mine)


def test_a_tier_that_is_not_served_is_told_why() -> None:
    fleet, tier = _large("ultra")
    (told,) = fleet_what_binds(fleet, tier)
    assert "gets 0 of 0.5 requests/s" in told
    assert "its machines count for more elsewhere (revenue; vr-nvl72 are all in use)" in told


def test_a_prefill_replica_is_told_with_its_first_token() -> None:
    fleet, tier = _large("premium")
    told = fleet_what_binds(fleet, tier)
    assert any("a first token within 2 s of the 2,000 ms asked, queue included" in line for line in told)
    assert "All vr-nvl72 of the fleet is in use." in told[0]


# Why here, why not so? -------------------------------------------------------------------------


def test_why_says_where_a_part_is_in_each_replica_and_what_it_would_be_elsewhere(fleet: Fleet) -> None:
    tier = fleet.plan.tiers[1]
    told = fleet_why(fleet, tier, "attention")
    assert any(line.startswith("premium-1: In decode, core attention is on groq3-lpx") for line in told)
    elsewhere = [line for line in told if line.startswith("Decoded on vr-nvl72, the best is ")]
    assert len(elsewhere) == 1 and "tokens/s/kW against" in elsewhere[0]


def test_a_part_of_a_tier_without_replicas_is_told_so(fleet: Fleet) -> None:
    empty = replace(fleet.plan.tiers[0], name="nobody", reason="its machines count for more elsewhere")
    assert fleet_why(fleet, empty, "attention") == [
        "nobody has no replica that decodes: its machines count for more elsewhere."
    ]
    with pytest.raises(
        JobError, match=r"No deployment has a part named 'atention'\. Did you mean 'attention'\?"
    ):
        fleet_why(fleet, fleet.plan.tiers[0], "atention")


def test_why_not_gives_every_mode_of_the_kind_with_what_rules_it_out() -> None:
    fleet, tier = _large("premium")
    told = fleet_why_not(fleet, tier, "afd")
    afd = [m for m in tier.modes if m.mode.startswith("AFD: ")]
    assert len(told) == len(afd) + 1
    for mode, line in zip(afd, told, strict=False):
        assert line.startswith(mode.mode) and mode.reason in line
    assert "AFD: attention on vr-nvl72, FFN on groq3-lpx runs; at its best, " in told[0]
    assert told[-1].endswith("no mix with it has more than 0.11% better revenue than the one that runs.")


def test_a_proof_is_told_only_where_something_would_work(fleet: Fleet) -> None:
    modes = (
        ModeReport("colocated on a", True, True, 3, "1 of a: 5 tokens/s", 2.0),
        ModeReport("AFD: attention on a, FFN on b", False, False, 3, "9 GB short"),
    )
    tier = replace(fleet.plan.tiers[0], name="t", modes=modes)
    assert fleet_why_not(fleet, tier, "afd") == [
        "AFD: attention on a, FFN on b has no pattern that meets t: 9 GB short."
    ]
    assert fleet_why_not(fleet, tier, "colocated") == [
        "colocated on a runs; at its best, 1 of a: 5 tokens/s."
    ]
    assert fleet_why_not(fleet, tier, "vr-nvl72") == ["No such mode was searched for t."]
    with pytest.raises(JobError, match=r"No mode named 'adf' was searched\. Did you mean 'afd'\?"):
        fleet_why_not(fleet, tier, "adf")


# What would one more bring? --------------------------------------------------------------------


def test_a_fleets_folder_holds_its_job_with_nothing_left_open(folder: Path) -> None:
    job = open_job(folder)
    assert (job.model.onnx, job.fleet) == (TINY.name, two_tiers().fleet)
    assert [(t.name, t.like, t.requests_per_s) for t in job.tier] == [
        ("gtc2026/high", "", 50.0),
        ("gtc2026/premium", "", 20.0),
    ]
    assert all(t.ttft_ms and t.context_tokens and t.input_tokens for t in job.tier)


def test_one_more_that_is_not_used_gains_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", str(folder), "--one-more", "vr-nvl72"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith(
        "With one more vr-nvl72 (2 instead of 1), throughput gains nothing beyond the 0.5%"
    )
    assert "What is left of the revenue" not in told


def test_one_more_is_the_fleet_solved_again(folder: Path) -> None:
    """The same numbers as a compile of the job with one more, by tier and in money."""
    from disaggc.compiler import Options, planned_fleet

    job = replace(open_job(folder), objective=replace(two_tiers().objective, minimise="", maximise="revenue"))
    few = varied(varied(job, "requests_per_s", 30_000.0), "least_share", 0.0)
    before = planned_fleet(few, EXAMPLES / "models", Options())
    after = planned_fleet(varied(few, "groq3-lpx", 2), EXAMPLES / "models", Options())
    found = fleet_growth(before, after, "groq3-lpx")
    assert (found.before, found.after) == (before.value, after.value)
    assert found.gained == pytest.approx(after.value - before.value) and found.gained > 0
    told = " ".join(growth_sentences(found))
    assert f"revenue goes from {figure(before.value)} to {figure(after.value)} USD/h" in told
    changed = {change.what: (change.before, change.after) for change in found.changes}
    assert changed["groq3-lpx used"][1].endswith("of 2")
    assert any("gets requests/s" in what for what in changed)
    assert found.replicas


def test_one_more_answers_programs_and_another_job(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.toml"
    tiers = "".join(
        f'[[tier]]\nlike = "gtc2026/{t}"\nrequests_per_s = 1\nprefix_hit = 0.98\n'
        for t in ("high", "premium")
    )
    head = f'[model]\nonnx = "{TINY}"\nweights = "fp8"\nkv = "fp8"\n[fleet]\nvr-nvl72 = 1\n'
    job.write_text(head + tiers, encoding="utf-8")
    asked = ["explain", str(folder), "--one-more", "groq3-lpx", "--job", str(job), "--json"]
    assert cli.main(asked) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["system"], data["available"], data["objective"]) == ("groq3-lpx", 1, "throughput")
    assert data["before"] == pytest.approx(2000)


def test_questions_are_asked_of_a_fleet_or_of_one_tier(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", str(folder), "--what-binds", "premium", "--why", "ffn", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert list(answers) == ["why ffn for gtc2026/premium", "what binds gtc2026/premium"]
    assert cli.main(["explain", str(folder), "--why-not", "colocated", "--what-binds"]) == 0
    told = capsys.readouterr().out
    assert all(f"what binds {tier}" in told for tier in ("gtc2026/high", "gtc2026/premium"))
    assert max(map(len, told.splitlines())) <= 100


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--what-binds", "premum"], "The fleet serves no tier named 'premum'. Did you mean 'premium'?"),
        (["--tier", "high"], "--tier narrows a question. Add --why PART, --why-not MODE or --what-binds."),
        (
            ["--tier", "high", "--what-binds", "premium"],
            "--tier high and --what-binds premium name two. Leave one out.",
        ),
        (["--why", "afn", "--tier", "high"], "No deployment has a part named 'afn'. Did you mean 'ffn'?"),
        (
            ["--one-more", "groq4-lpx"],
            "No target named 'groq4-lpx' in targets/systems. Did you mean 'groq3-lpx'?",
        ),
    ],
)
def test_a_question_without_an_answer_is_refused(
    folder: Path, asked: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", str(folder), *asked]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_one_more_needs_the_job_and_the_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    asked = ["explain", str(copy), "--one-more", "groq3-lpx"]
    kept = json.loads((copy / "job.json").read_text(encoding="utf-8"))
    changed = {**kept, "fleet": {**kept["fleet"], "groq3-lpx": 4}}
    (copy / "job.json").write_text(json.dumps(changed), encoding="utf-8")
    assert cli.main(asked) == 1
    assert "'job.json' in" in (told := " ".join(capsys.readouterr().err.split()))
    assert "is not the job that its plan was made for. Compile it again, or add --job" in told
    (copy / "job.json").write_text(json.dumps(kept), encoding="utf-8")
    other = tmp_path / "models"
    other.mkdir()
    (copy / "model.path").write_text(f"{other}\n", encoding="utf-8")
    assert cli.main(asked) == 1
    assert f"The model is not at '{other / TINY.name}' any more. Add --job" in capsys.readouterr().err
    (other / TINY.name).write_bytes(b"another")
    assert cli.main(asked) == 1
    assert "is not the model that" in capsys.readouterr().err
    (copy / "job.json").write_text("{", encoding="utf-8")
    assert cli.main(asked) == 1
    assert "job.json' is not JSON" in capsys.readouterr().err
    (copy / "job.json").unlink()
    assert cli.main(asked) == 1
    assert (
        "holds no job.json (No such file or directory). Compile it again, or add --job"
        in capsys.readouterr().err
    )


def test_a_plan_of_one_tier_answers_for_that_alone(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tiny_plan(tmp_path_factory.getbasetemp()))
    assert cli.main(["explain", folder, "--what-binds", "premium"]) == 0
    capsys.readouterr()
    assert cli.main(["explain", folder, "--what-binds", "high"]) == 1
    assert "The plan is for tier 'gtc2026/premium', not 'high'." in capsys.readouterr().err


def test_a_plan_of_one_tier_where_a_fleet_is_wanted_is_told_its_cure(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_plan(tmp_path_factory.getbasetemp())
    tiers = '[[tier]]\nlike = "gtc2026/high"\nrequests_per_s = 1\n'
    (tmp_path / "job.toml").write_text(
        f'[model]\nonnx = "{TINY}"\n[fleet]\nvr-nvl72 = 1\n{tiers}', encoding="utf-8"
    )
    asked = ["compile", str(tmp_path / "job.toml"), "-o", str(tmp_path / "out"), "--keep", str(folder)]
    assert cli.main(asked) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert f"'{folder}' is the plan of one tier without a demand, and a fleet's is wanted. Give the" in told
