"""`disaggc completion`: scripts that the shells themselves are asked to complete with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from disaggc.cli import main
from disaggc.report.completion import SHELLS, Command, Option, Value, quoted, script
from disaggc.targets import load_library

HOSTILE = "it's $(touch made) `touch made` \"; touch made"


def _needs(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} is installed")
    return found


def _script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def _bash(text: str, words: list[str], folder: Path) -> list[str]:
    """What bash would offer for the last of some words."""
    told = " ".join(quoted(word) for word in words)
    asked = f'COMP_WORDS=({told}); COMP_CWORD={len(words) - 1}; _disaggc; printf "%s\\n" "${{COMPREPLY[@]}}"'
    command = [_needs("bash"), "--norc", "-c", f"{text}\n{asked}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)  # noqa: S603
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def _fish(text: str, line: str, folder: Path) -> list[str]:
    (folder / "script.fish").write_text(text, encoding="utf-8")
    command = [_needs("fish"), "--no-config", "-c", f"source script.fish; complete -C {quoted(line)}"]
    home = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=home)  # noqa: S603
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


def test_bash_completes_commands_options_and_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _script("bash", capsys)
    (tmp_path / "job.toml").touch()
    (tmp_path / "out").mkdir()
    assert _bash(text, ["disaggc", "comp"], tmp_path) == ["compile", "compare", "completion"]
    assert _bash(text, ["disaggc", "explain", "--why"], tmp_path) == ["--why", "--why-not"]
    assert _bash(text, ["disaggc", "compile", "x.onnx", "--system", "vr"], tmp_path) == ["vr-nvl72"]
    assert _bash(text, ["disaggc", "compile", "x.onnx", "--tier", "gtc2026/p"], tmp_path) == [
        "gtc2026/premium"
    ]
    assert _bash(text, ["disaggc", "compile", "x.onnx", "--weights", "nv"], tmp_path) == ["nvfp4"]
    assert _bash(text, ["disaggc", "targets", "groq"], tmp_path) == ["groq3-lpx"]
    assert _bash(text, ["disaggc", "completion", ""], tmp_path) == list(SHELLS)
    assert _bash(text, ["disaggc", "compile", "j"], tmp_path) == ["job.toml"]
    assert _bash(text, ["disaggc", "explain", ""], tmp_path) == ["out"]
    assert _bash(text, ["disaggc", "compile", "--context", ""], tmp_path) == []


def test_bash_offers_every_declared_system(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offered = _bash(_script("bash", capsys), ["disaggc", "targets", ""], tmp_path)
    assert set(offered) == set(load_library(None).systems)


def test_fish_completes_commands_options_and_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _script("fish", capsys)
    assert set(_fish(text, "disaggc comp", tmp_path)) == {"compile", "compare", "completion"}
    assert set(_fish(text, "disaggc explain out --why", tmp_path)) == {"--why", "--why-not"}
    assert _fish(text, "disaggc targets groq", tmp_path) == ["groq3-lpx"]


def test_zsh_takes_its_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "_disaggc"
    path.write_text(_script("zsh", capsys), encoding="utf-8")
    asked = f"autoload -Uz compinit; compinit -D; source {path}; print ${{_comps[disaggc]}}"
    done = subprocess.run(  # noqa: S603
        [_needs("zsh"), "-f", "-c", asked], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("_disaggc\n", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_text_cannot_break_out_of_its_script(shell: str, tmp_path: Path) -> None:
    option = Option(("--why",), HOSTILE, Value(("attention",)))
    text = script(shell, [Command("explain", HOSTILE, (option,), (Value(folder=True),))])
    path = tmp_path / "script"
    path.write_text(text, encoding="utf-8")
    run = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    command = [_needs(shell), *run, "-c", f"source {path}"]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)  # noqa: S603
    assert [p.name for p in tmp_path.iterdir()] == ["script"]


def test_an_unknown_shell_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["completion", "bsh"])
    assert refused.value.code == 2
    assert "There is no 'bsh'. Did you mean 'bash'?" in capsys.readouterr().err


def test_a_misspelt_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["expalin", "out"])
    assert refused.value.code == 2
    assert "There is no 'expalin'. Did you mean 'explain'?" in capsys.readouterr().err
