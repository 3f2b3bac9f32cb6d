"""``disaggc run`` and ``verify``, executed in several ways."""

import json
from pathlib import Path

import pytest
from jobs import tiny_plan

from disaggc.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_plan(tmp_path_factory.mktemp("run")))


def test_verify_runs_in_processes(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--on", "processes", "--instances", "vr-nvl72=2", "--micro-batches", "1"]
    assert main(["verify", folder, *options]) == 0
    assert "equal: all 48 tokens of 3 requests agree with the uncut model" in capsys.readouterr().out


def test_a_run_writes_its_timeline(folder: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    assert main(["run", folder, "--prompt-ids", "1,2,3", "--max-new-tokens", "3", "--trace", str(trace)]) == 0
    document = json.loads(trace.read_text())
    assert document["otherData"]["predicted_busy_share"].keys() >= {"vr-nvl72", "groq3-lpx"}
    assert any(event["ph"] == "X" and event["pid"] == 2 for event in document["traceEvents"])


def test_a_request_that_fails_is_told_and_the_others_are_shown(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["--prompt-ids", "1,2", "--prompt-ids", "3,9999", "--max-new-tokens", "3"]
    assert main(["run", folder, *prompts, "--json"]) == 1
    output, errors = capsys.readouterr()
    found = json.loads(output)
    assert [len(tokens) for tokens in found["tokens"]] == [3, 0]
    assert found["failures"].keys() == {"1"}
    assert "Token id 9999 is not in the model's vocabulary" in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--instances", "vr-nvl72"], "--instances vr-nvl72: write the pool's name and a number"),
        (["--instances", "vr-nvl7=2"], "The plan has no pool 'vr-nvl7'. Did you mean 'vr-nvl72'?"),
        (["--instances", "vr-nvl72=0"], "Pool 'vr-nvl72' cannot have 0 instances"),
        (["--micro-batch", "0"], "--micro-batch 0 leaves nothing to run"),
        (["--micro-batches", "0"], "--micro-batches 0 leaves nothing to run"),
        (["--kv-tokens", "0"], "--kv-tokens 0 leaves nothing to run"),
        (["--kv-tokens", "8"], "more are to come: 35, but the plan's budget for caches holds 8"),
        (["--deadline", "0"], "--deadline 0 leaves no time"),
        (["--address", "head:6379"], "--address head:6379 names a Ray cluster. Add --on ray."),
        (["--memory-limit", "much"], "--memory-limit 'much' is no size"),
        (["--memory-limit", "2G"], "--memory-limit is for executors with a process each"),
        (["--trace", "/nowhere/trace.json"], "Cannot write the timeline to '/nowhere/trace.json'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    folder: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["run", folder, "--prompt-ids", "1,2,3", *options]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
