"""disaggc calibrate on whatever machine the tests run on: what it writes is used straight away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jobs import TINY
from known_machine import KERNELS, MACHINE, MESSAGES, known_system

from disaggc.calibration import Calibrated, Options, calibrate, calibrating
from disaggc.cli import main
from disaggc.commands.calibrate import summary
from disaggc.errors import ExecutorError, JobError
from disaggc.runtime.stopwatch import usable_cores
from disaggc.targets import load_library

LEAST = ("--seconds", "0.5", "--force")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    output = folder / "targets" / "systems" / "my-box.toml"
    assert main(["calibrate", "--here", "-o", str(output), *LEAST, "--json"]) == 0
    return folder


def test_the_declaration_loads_and_every_figure_is_above_nothing(library: Path) -> None:
    system = load_library(library).system("my-box")
    assert system.device.kind == "cpu"
    assert system.device.rate("fp32").si > 0
    assert all(figure.si > 0 for figure in system.device.efficiency.node.values())
    assert {"gemm", "attention", "norm"} <= set(system.device.efficiency.node)
    assert system.notes.startswith("measured on this machine, ")


def test_a_plan_is_priced_on_it_and_cites_the_measurement(library: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(
        f"""
        model = {{ onnx = "{TINY.as_posix()}" }}
        fleet = {{ my-box = 1 }}
        [[tier]]
        name = "mine"
        context_tokens = 256
        ttft_ms = 1e9
        tokens_per_s_per_user = 0.001
        output_tokens = 64
        """
    )
    assert main(["compile", str(job), "--library", str(library), "-o", str(tmp_path / "out")]) == 0
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["mode"] == "colocated on my-box"
    assert plan["prediction"]["tpot_us"]["conservative"] > 0
    told = (tmp_path / "out" / "machines.csv").read_text()
    assert "measured-here" in told


def test_a_table_of_the_system_shows_where_numbers_come_from(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["targets", "my-box", "--library", str(library)]) == 0
    assert "measured-here" in capsys.readouterr().out


def test_the_constants_are_told_in_a_few_lines() -> None:
    found = Calibrated(MACHINE, (), KERNELS, MESSAGES, known_system())
    told = list(summary(found))
    assert (
        "  message between processes: 12.0 us of each end, 7.0 us on its way (50.0 to one that sleeps)"
        in told
    )
    assert any(line.startswith("  start of a node, us: elementwise 1.0, norm 1.5") for line in told)
    assert max(map(len, told)) <= 100, "a line of a terminal"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["calibrate", *arguments]) == 1
    return " ".join(capsys.readouterr().err.split())


def test_without_here_it_explains(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused([], capsys)
    assert "Only the machine that this runs on can be measured: disaggc calibrate --here." in told


def test_more_threads_than_cores_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    many = usable_cores() + 1
    told = refused(["--here", "--threads", str(many)], capsys)
    assert f"--threads {many}: this process may use {many - 1} cores" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0.01"], "--seconds 0.01 is too short to measure in. Give 0.5 or more."),
        (["--seconds", "nan"], "--seconds nan is too short"),
        (["-o", "here.json"], "-o here.json: a declaration is a .toml file, called as the system."),
        (["-o", "My Box.toml"], "--name 'My Box': use lower-case letters, digits and dashes"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(["--here", *arguments], capsys)


def test_a_machine_that_is_too_busy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "UNUSABLE", -1.0)
    monkeypatch.setattr(calibrating, "measured_steps", lambda *_: (None, 0.0))
    with pytest.raises(ExecutorError, match=r"This machine is busy: .* Let nothing else run, or insist with"):
        calibrate(Options(seconds=0.5))


def test_a_name_that_no_system_can_have_is_refused() -> None:
    with pytest.raises(JobError, match="use lower-case letters"):
        calibrate(Options(name="Here"))
