"""What the command prints, and where, and with which exit code; some of it in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jobs import TINY, tiny_plan, write_job

from disaggc import __version__
from disaggc.cli import main
from disaggc.commands import explain
from disaggc.runtime import Comparison, verify

COMMANDS = (
    "inspect",
    "compile",
    "run",
    "verify",
    "explain",
    "targets",
    "import",
    "calibrate",
    "compare",
    "report",
    "diff",
    "completion",
)
PROMPTS = ("--prompt-ids", "1,2,3", "--max-new-tokens", "3")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan(tmp_path_factory.getbasetemp())


def _json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    data: dict[str, Any] = json.loads(printed.out)
    return data


def _process(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "disaggc.cli", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(  # noqa: S603 - ours
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, env=buffered
    )


# For programs -------------------------------------------------------------------------------------


def test_compile_prints_the_plan_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _json(["compile", str(write_job(tmp_path)), "-o", str(tmp_path / "plan")], capsys)
    assert data == json.loads((tmp_path / "plan" / "plan.json").read_bytes())


def test_explain_prints_the_plan_for_programs(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(["explain", str(plan)], capsys) == json.loads((plan / "plan.json").read_bytes())


def test_inspect_prints_roles_and_ops_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    data = _json(["inspect", str(TINY)], capsys)
    assert data["layers"] == 4
    assert {"core_attention", "experts", "total"} <= {role["role"] for role in data["roles"]}


def test_run_and_verify_print_equal_tokens_for_programs(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _json(["run", str(plan), *PROMPTS], capsys)
    check = _json(["verify", str(plan), *PROMPTS], capsys)
    assert check["tokens_equal"] is True
    assert check["largest_logit_difference"] <= 1e-5 * check["largest_logit"]
    assert run["tokens"] == check["tokens"]
    assert [len(tokens) for tokens in run["tokens"]] == [3]


def test_two_prompts_of_unequal_length_run_as_each_alone(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tokens(*prompts: str) -> list[list[int]]:
        asked = [part for prompt in prompts for part in ("--prompt-ids", prompt)]
        found: list[list[int]] = _json(["run", str(plan), *asked, "--max-new-tokens", "5"], capsys)["tokens"]
        return found

    assert tokens("1,2,3", "9,8,7,6,5,4,3") == tokens("1,2,3") + tokens("9,8,7,6,5,4,3")


# For people ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: disaggc {command}" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"disaggc {__version__}\n"


def test_compile_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a [bold] plan"
    assert main(["compile", str(write_job(tmp_path)), "-o", str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith(f"Wrote {folder}. Next: disaggc explain {folder}; disaggc verify {folder}\n")
    assert printed.err == ""


def test_one_graph_can_be_printed_after_a_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(TINY), "--print-after", "segment"]) == 0
    first = capsys.readouterr().out
    assert main(["inspect", str(TINY), "--print-after", "segment"]) == 0
    assert capsys.readouterr().out == first
    assert "MoE" in first


def test_targets_lists_systems_and_shows_one_with_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    listed = capsys.readouterr().out
    assert "vr-nvl72" in listed
    assert main(["targets", "groq3-lpx"]) == 0
    shown = capsys.readouterr().out
    assert "NV-LPX-PAGE" in shown
    assert max(len(line) for line in (listed + shown).splitlines()) <= 100


def test_targets_are_told_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    systems = json.loads(capsys.readouterr().out)
    assert {"vr-nvl72", "groq3-lpx"} <= {system["name"] for system in systems}
    assert main(["targets", "groq3-lpx", "--json"]) == 0
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["device.memories.sram.capacity"]["source"] == "NV-LPX-PAGE"


REFUSED = {
    ("inspect", str(TINY), "--print-after", "segmnt"): (
        "No pass named 'segmnt' ran. See passes/pipelines/default.toml."
    ),
    ("targets", "vr-nvl27"): "No target named 'vr-nvl27' in targets/systems. Did you mean 'vr-nvl72'?",
    ("explain", "/nonexistent"): (
        "No plan in '/nonexistent': cannot read plan.json (No such file or directory). "
        "Make one: disaggc compile JOB.toml -o /nonexistent"
    ),
    ("compile", "none.toml", "-o", "out"): "Cannot read job 'none.toml': No such file or directory.",
    ("compile", "job.toml", "--tier", "gtc2026/free", "-o", "out"): (
        "A job file names its own fleet and tier. Leave --system and --tier out."
    ),
    ("compile", str(TINY), "--system", "vr-nvl72", "-o", "out"): (
        "A model needs a fleet and a tier: add --system NAME[=N] and --tier NAME, or give a JOB.toml."
    ),
}


@pytest.mark.parametrize("arguments", REFUSED, ids=lambda found: " ".join(found[:1] + found[-1:]))
def test_bad_input_is_one_line_on_stderr(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.err == f"error: {REFUSED[arguments]}\n"
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "verify"])
def test_token_ids_that_are_no_numbers_are_refused(
    command: str, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(plan), "--prompt-ids", "1,two"]) == 1
    message = "error: --prompt-ids '1,two' must be token ids with commas between, such as 1,2,3.\n"
    assert capsys.readouterr().err == message


def test_a_run_without_a_prompt_is_refused(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(plan)]) == 1
    message = "error: There is no prompt. Add --prompt 'TEXT', or --prompt-ids 1,2,3 with token ids.\n"
    assert capsys.readouterr().err == message


def test_a_verification_that_finds_a_difference_exits_1(
    plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differing(*arguments: Any, **options: Any) -> Any:
        found = verify(*arguments, **options)
        wrong = Comparison(tokens_equal=False, first_difference=2, difference=0.5, magnitude=1.0)
        return type(found)((wrong,), found.planned, found.reference)

    monkeypatch.setattr("disaggc.runtime.verify", differing)
    assert main(["verify", str(plan), *PROMPTS]) == 1
    assert capsys.readouterr().out.startswith("different: 1 of 1 requests\n")


# In a process of its own ----------------------------------------------------------------------------


def test_the_process_ends_with_the_exit_code_of_what_happened(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    strict = tmp_path / "strict.toml"
    text = job.read_text(encoding="utf-8").replace("[search]", "tokens_per_s_per_user = 60_000\n\n[search]")
    strict.write_text(text, encoding="utf-8")
    codes = {
        0: _process("targets"),
        1: _process("explain", str(tmp_path)),
        2: _process("compile", str(job)),
        3: _process("compile", str(strict), "-o", str(tmp_path / "plan")),
    }
    assert [done.returncode for done in codes.values()] == list(codes)
    assert "the following arguments are required: -o/--output" in codes[2].stderr
    assert codes[3].stderr.startswith("error: No plan on 1 x vr-nvl72, 1 x groq3-lpx meets the tier.\n")
    assert not any("Traceback" in done.stderr for done in codes.values())


def test_a_pipe_gets_no_escape_codes(plan: Path) -> None:
    done = [_process("explain", str(plan)), _process("inspect", str(TINY)), _process("explain", "none")]
    assert [d.returncode for d in done] == [0, 0, 1]
    assert not any("\x1b" in d.stdout + d.stderr for d in done)


@pytest.mark.parametrize("arguments", [("explain",), ("explain", "--json"), ("run", "--json", *PROMPTS)])
def test_a_reader_that_leaves_is_no_error(plan: Path, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = _process(*arguments, str(plan), stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(explain, "is_fleet", broken)
    with pytest.raises(ZeroDivisionError):
        main(["explain", "anything"])
