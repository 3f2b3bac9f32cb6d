"""The command on fleets: compiled twice alike, told, kept, compared, drawn; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from disaggc.cli import main
from disaggc.plans import open_fleet, open_plan

MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "qwen3_moe.gqa_moe.onnx"
JOB = """\
[model]
onnx = "{onnx}"
weights = "fp8"
kv = "fp8"

[fleet]
h200-x8 = 1
sn50-rack = 1
{more}
[[tier]]
name = "table/Fast!"
context_tokens = 8_000
input_tokens = 4_000
output_tokens = 500
tokens_per_s_per_user = 400
ttft_ms = 500
price_usd_per_mtok = 5
requests_per_s = {fast}

[[tier]]
name = "slow"
context_tokens = 8_000
input_tokens = 4_000
output_tokens = 500
tokens_per_s_per_user = 50
ttft_ms = 2_000
price_usd_per_mtok = 1
{slow}
"""


def _job(folder: Path, fast: float = 20.0, slow: str = "", more: str = "") -> Path:
    path = folder / "job.toml"
    path.write_text(JOB.format(onnx=MODEL, fast=fast, slow=slow, more=more), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    assert main(["compile", str(_job(folder)), "-o", str(folder / "out")]) == 0
    return folder / "out"


def test_a_fleet_compiles_twice_to_the_same_bytes(fleet: Path, tmp_path: Path) -> None:
    assert main(["compile", str(_job(tmp_path)), "-o", str(tmp_path / "again")]) == 0
    first, again = (_contents(folder) for folder in (fleet, tmp_path / "again"))
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []


def _contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_fleet_serves_its_demand_on_devices_that_it_has(fleet: Path) -> None:
    plan = open_fleet(fleet)
    fast = plan.tiers[0]
    assert fast.served_requests_per_s == pytest.approx(20.0)
    assert fast.tokens_per_s == pytest.approx(20.0 * 500)
    for use in plan.systems:
        aside = sum(r.replicas * g.devices for r in plan.replicas for g in r.groups if g.system == use.system)
        assert use.set_aside == aside <= use.devices
    planned = sum(r.planned_requests_per_s for r in plan.replicas if r.tier == fast.name and r.plan)
    assert planned == pytest.approx(20.0, rel=1e-6)
    assert all(r.utilisation <= 1 + 1e-9 for r in plan.replicas)


def test_each_deployment_is_a_plan_that_verifies(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = open_fleet(fleet)
    deployed = [r for r in plan.replicas if r.plan]
    assert deployed and all(r.name[0].isalpha() for r in deployed)
    for replica in deployed[:2]:
        assert open_plan(fleet / replica.plan).goal.tier == replica.tier
        assert main(["verify", str(fleet / replica.plan), "--max-new-tokens", "4"]) == 0
    assert "equal" in capsys.readouterr().out


def test_a_fleet_where_one_plan_is_wanted_names_its_deployments(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(fleet), "--prompt-ids", "1,2"]) == 1
    told = capsys.readouterr().err.replace("\n", " ")
    assert "is the plan of a whole fleet. Run one of its deployments:" in told
    assert "deployments/fast-1" in told


def test_explain_tells_every_tier_machine_and_mode(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(fleet)]) == 0
    told = capsys.readouterr().out
    for words in ("table/Fast!", "slow", "What each machine pays for", "sn50-rack", "colocated on h200-x8"):
        assert words in told
    tables = [line for line in told.partition("What each machine")[0].splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= 100


def test_a_little_more_demand_keeps_the_plan(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, out = str(_job(tmp_path, fast=20.1)), str(tmp_path / "next")
    assert main(["compile", job, "-o", out, "--keep", str(fleet)]) == 0
    assert "Nothing changes from the plan that was to be kept." in capsys.readouterr().out
    before, after = open_fleet(fleet), open_fleet(tmp_path / "next")
    assert [(r.mode, r.replicas, r.groups) for r in before.replicas] == [
        (r.mode, r.replicas, r.groups) for r in after.replicas
    ]


def test_much_more_demand_changes_the_plan_and_prices_each_change(fleet: Path, tmp_path: Path) -> None:
    job, out = str(_job(tmp_path, fast=8_000.0, slow="least_share = 0")), str(tmp_path / "next")
    assert main(["compile", job, "-o", out, "--keep", str(fleet)]) == 0
    plan = open_fleet(tmp_path / "next")
    assert plan.kept and plan.changes
    assert all(change.before != change.after for change in plan.changes)
    assert any(change.worth is None or change.worth > 0 for change in plan.changes), (
        "one at least is for gain"
    )


def test_keeping_is_for_fleets(fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compile", str(MODEL), "--system", "h200-x8", "--tier", "gtc2026/free"]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--keep", str(fleet)]) == 1
    assert "--keep is for tiers that share a fleet" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_demand_beyond_the_fleet_is_no_plan_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(_job(tmp_path, fast=1e7)), "-o", str(tmp_path / "out")]) == 3
    told = capsys.readouterr().err
    assert "These contradict each other, and no fewer of them do:" in told
    assert "table/Fast!: requests_per_s = " in told
    assert not (tmp_path / "out").exists()


def test_a_sweep_of_a_word_is_a_table_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "sweep.html"
    job = str(_job(tmp_path))
    assert main(["compare", job, "--with", "sn50=0,1", "--json", "-o", str(page)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["value"] for row in data["rows"]] == [0.0, 1.0]
    assert "sn50-rack" not in data["rows"][0]["systems"]
    text = page.read_text(encoding="utf-8")
    assert text.startswith(("<!doctype html>", "<!DOCTYPE html>"))
    assert "src=" not in text and "http://" not in text.replace("http://www.w3.org", "")
    assert "requests/s served" in text


def test_a_sweep_of_one_tiers_number_changes_that_tier_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(_job(tmp_path)), "--with", "Fast!.requests_per_s=5,10", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["requests_per_s"]["table/Fast!"] for row in rows] == pytest.approx([5, 10])
    assert main(["compare", str(_job(tmp_path)), "--with", "fats.requests_per_s=5"]) == 1
    assert "'fats' is no tier of the job." in capsys.readouterr().err.replace("\n", " ")


def test_several_tiers_on_the_command_line_share_the_fleet(tmp_path: Path) -> None:
    arguments = [
        "compile",
        str(MODEL),
        "--system",
        "vr-nvl72",
        "--tier",
        "gtc2026/free",
        "--tier",
        "gtc2026/high",
    ]
    assert main([*arguments, "--weights", "fp8", "--kv", "fp8", "-o", str(tmp_path / "out")]) == 0
    assert [tier.name for tier in open_fleet(tmp_path / "out").tiers] == ["gtc2026/free", "gtc2026/high"]
