"""Bad input: each with the class of its error, its message and its exit code. Nothing is half written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from jobs import TINY, write_job

from disaggc import compiler
from disaggc.cli import main

TIER = ["--tier", "gtc2026/premium"]
FLEET = ["--system", "vr-nvl72", "--system", "groq3-lpx", *TIER]
FORMATS = ["--weights", "fp8", "--kv", "fp8", "--activations", "bf16"]
QUICK = ["--context", "4096", "--batch", "8"]


def compiled(model: Path, output: Path, *more: str) -> int:
    return main(["compile", str(model), *FLEET, *FORMATS, *QUICK, "-o", str(output), *more])


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What stderr says, on one line: messages are wrapped to the width of the screen."""
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "made" / "plan"


def nothing_left(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


def test_a_text_is_not_an_onnx_file(tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "notes.onnx"
    model.write_text("These are notes, not a model.")
    assert compiled(model, output) == 1
    assert f"error: '{model}'" in told(capsys)
    assert nothing_left(output.parent)


def test_a_truncated_file_is_refused_with_its_size(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "cut.onnx"
    model.write_bytes(TINY.read_bytes()[:100_000])
    assert compiled(model, output) == 1
    text = told(capsys)
    assert "truncated" in text and "100,000 bytes" in text
    assert nothing_left(output.parent)


def test_an_unknown_domain_warns_and_is_still_placed(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(str(TINY))
    sigmoid = next(node for node in model.graph.node if node.op_type == "RMSNormalization")
    sigmoid.domain, sigmoid.op_type = "acme.ops", "Squash"
    model.opset_import.append(onnx.helper.make_opsetid("acme.ops", 1))
    path = tmp_path / "foreign.onnx"
    onnx.save(model, str(path))
    assert compiled(path, output) == 0
    assert "Unknown op domain 'acme.ops': 1 x acme.ops::Squash is placed" in told(capsys)
    rows = (output / "ops.csv").read_text().splitlines()
    assert sum(",acme.ops::Squash," in row for row in rows) == 2  # once for each phase


def test_missing_weights_compile_and_running_says_which_file(
    skeleton: Callable[[str], Path], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = skeleton("qwen3_moe.gqa_moe")
    assert compiled(model, output) == 0
    assert main(["run", str(output), "--prompt-ids", "1,2"]) == 1
    assert "'weights.bin'" in told(capsys)


@pytest.mark.parametrize("location", ["../elsewhere.bin", "/etc/passwd"])
def test_weights_outside_the_models_folder_are_refused(
    location: str,
    skeleton: Callable[[str], Path],
    tmp_path: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = onnx.load(str(skeleton("qwen3_moe.gqa_moe")), load_external_data=False)
    outside = next(t for t in model.graph.initializer if t.external_data)
    next(e for e in outside.external_data if e.key == "location").value = location
    path = tmp_path / "outside.onnx"
    path.write_bytes(model.SerializeToString())
    assert compiled(path, output) == 1
    assert f"takes weights from '{location}', outside its own folder" in told(capsys)
    assert nothing_left(output.parent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--system", "vr-nvl71", *TIER],
            "No target named 'vr-nvl71' in targets/systems. Did you mean 'vr-nvl72'?",
        ),
        (["--system", "vr-nvl72", "--tier", "gtc2026/premum"], "Did you mean 'gtc2026/premium'?"),
        (
            ["--system", "vr-nvl72=two", *TIER],
            "--system vr-nvl72=two: 'two' is no number of systems. Write vr-nvl72=2.",
        ),
        (
            ["--system", "vr-nvl72", *TIER, "--weights", "fp9"],
            "No number format named 'fp9'. Did you mean 'fp8'?",
        ),
        (TIER, "A model needs a fleet and a tier"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    arguments: list[str], message: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(TINY), *arguments, "-o", str(output)]) == 1
    assert message in told(capsys)
    assert nothing_left(output.parent)


def test_an_infeasible_tier_exits_3_and_its_own_cure_works(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = write_job(tmp_path)
    asked.write_text(asked.read_text().replace("[search]", "tokens_per_s_per_user = 60000\n\n[search]"))
    assert main(["compile", str(asked), "-o", str(output)]) == 3
    text = told(capsys)
    assert "No plan on 1 x vr-nvl72, 1 x groq3-lpx meets the tier." in text
    assert "colocated on vr-nvl72: its fastest plan" in text
    assert "the tier asks for 60,000" in text
    assert nothing_left(output.parent)
    cure = text.partition("tokens_per_s_per_user = ")[2].split()[0]
    asked.write_text(asked.read_text().replace("60000", cure))
    assert main(["compile", str(asked), "-o", str(output)]) == 0


def test_an_existing_folder_is_kept_without_force_and_replaced_with_it(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compiled(TINY, output) == 0
    before = (output / "plan.json").read_bytes()
    assert compiled(TINY, output) == 1
    assert "exists already. Choose another folder, or add --force to replace it." in told(capsys)
    assert (output / "plan.json").read_bytes() == before
    assert compiled(TINY, output, "--force", "--output-tokens", "7") == 0
    assert (output / "plan.json").read_bytes() != before
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_force_keeps_the_old_plan_whole_when_the_new_one_fails(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compiled(TINY, output) == 0
    before = {p: p.read_bytes() for p in sorted(output.rglob("*")) if p.is_file()}
    assert compiled(tmp_path / "missing.onnx", output, "--force") == 1
    assert "No file" in told(capsys)
    assert {p: p.read_bytes() for p in sorted(output.rglob("*")) if p.is_file()} == before
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_force_does_not_replace_a_folder_that_holds_no_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    assert compiled(TINY, tmp_path / "photos", "--force") == 1
    assert "holds no plan, so --force will not replace it" in told(capsys)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert compiled(TINY, tmp_path / "file" / "plan") == 1
    assert "Cannot write to" in told(capsys)


def test_an_interrupt_leaves_nothing_behind(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compiler, "write_plan", interrupt)
    assert compiled(TINY, output) == 130
    assert "Interrupted; nothing was written." in told(capsys)
    assert nothing_left(output.parent)


def test_a_real_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    made = tmp_path / "made"
    asked = ["compile", str(TINY), *FLEET, *FORMATS, "-o", str(made / "plan")]
    command = [sys.executable, "-m", "disaggc.cli", *asked]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)  # noqa: S603 - ours
    deadline = time.monotonic() + 60
    while not made.is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error.decode()
    assert nothing_left(made)


def test_a_changed_model_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.onnx"
    shutil.copy(TINY, model)
    assert compiled(model, tmp_path / "plan") == 0
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 0xFF
    model.write_bytes(data)
    assert main(["verify", str(tmp_path / "plan")]) == 1
    assert "is not the model that the plan was compiled from" in told(capsys)


def test_wrong_use_of_the_command_exits_2() -> None:
    with pytest.raises(SystemExit) as refused:
        main(["compile"])
    assert refused.value.code == 2


def test_no_command_teaches_the_first_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = capsys.readouterr().out
    steps = [told.index(step) for step in ("disaggc inspect ", "disaggc compile ", "disaggc verify ")]
    assert steps == sorted(steps)
    assert max(map(len, told.splitlines())) <= 100
