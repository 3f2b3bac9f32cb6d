"""``disaggc emit``: what it writes, says and refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from disaggc import cli
from disaggc.backends.catalogue import BACKENDS
from disaggc.backends.emitters import MANIFEST, Settings, emitter
from disaggc.backends.emitters.order import flag
from disaggc.library import shelf

Plans = Callable[[str], Path]


def command(folder: Path, backend: str, output: Path, *more: str) -> list[str]:
    return ["emit", str(folder), "--backend", backend, "-o", str(output), *more]


def test_it_writes_and_says_what_is_next(
    plans: Plans, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(command(plans("phases"), "vllm", out, "--checkpoint", "a/b")) == 0
    told = capsys.readouterr()
    assert "Next: sbatch slurm/prefill.sbatch; sbatch slurm/decode.sbatch; bash launch/router.sh" in told.out
    assert "serve a checkpoint in it" in told.err
    assert (out / "launch" / "router.sh").stat().st_mode & 0o111


def test_json_is_everything_for_programs(
    plans: Plans, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(command(plans("colocated"), "dynamo", out, "--checkpoint", "a/b", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["backend"], told["output"]) == ("dynamo", str(out))
    assert "deployment.yaml" in told["files"] and told["notes"]


def test_the_manifest_says_which_plan_and_which_bytes(plans: Plans, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(command(plans("colocated"), "vllm", out, "--checkpoint", "a/b")) == 0
    manifest = json.loads((out / MANIFEST).read_text())
    plan = (plans("colocated") / "plan.json").read_bytes()
    assert manifest["plan"] == hashlib.sha256(plan).hexdigest()
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("backend", ["dynamo", "vllm", "sglang"])
def test_equal_plans_give_equal_bytes(plans: Plans, tmp_path: Path, backend: str) -> None:
    contents = []
    for name in ("one", "two"):
        assert cli.main(command(plans("phases"), backend, tmp_path / name, "--checkpoint", "a/b")) == 0
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        contents.append([(p.relative_to(tmp_path / name), p.read_bytes()) for p in files])
    assert contents[0] == contents[1]


def test_a_folder_is_replaced_only_if_it_was_emitted_and_with_force(
    plans: Plans, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = command(plans("colocated"), "vllm", out, "--checkpoint", "a/b")
    assert cli.main(line) == 0
    assert cli.main(line) == 1
    assert "exists already. Choose another folder, or add --force" in capsys.readouterr().err
    assert cli.main([*line, "--force"]) == 0
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("years of work")
    assert cli.main([*command(plans("colocated"), "vllm", other, "--checkpoint", "a/b"), "--force"]) == 1
    assert "holds no deployment, so --force will not replace it" in capsys.readouterr().err
    assert (other / "chapter.tex").read_text() == "years of work"


def test_a_plan_folder_is_never_replaced(plans: Plans, capsys: pytest.CaptureFixture[str]) -> None:
    folder = plans("colocated")
    assert cli.main(command(folder, "vllm", folder, "--checkpoint", "a/b", "--force")) == 1
    assert "holds no deployment" in capsys.readouterr().err
    assert (folder / "plan.json").is_file()


def test_a_refusal_writes_nothing(plans: Plans, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(plans("experts"), "vllm", tmp_path / "out", "--checkpoint", "a/b")) == 1
    assert "Use --backend afd-plugin" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_backend_has_a_nearest_name(
    plans: Plans, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command(plans("colocated"), "dinamo", tmp_path / "out")) == 1
    assert "No backend named 'dinamo'. Did you mean 'dynamo'?" in capsys.readouterr().err


def test_a_setting_that_a_backend_would_ignore_is_refused(
    plans: Plans, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = command(plans("colocated"), "vllm", tmp_path / "out", "--checkpoint", "a/b", "--build-id", "x")
    assert cli.main(line) == 1
    told = capsys.readouterr().err
    assert "Backend 'vllm' takes no --build-id. It takes: --checkpoint, --image" in told


def test_a_node_without_devices_is_refused(
    plans: Plans, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = command(plans("colocated"), "vllm", tmp_path / "out", "--checkpoint", "a/b", "--node-devices", "0")
    assert cli.main(line) == 1
    assert "--node-devices 0 must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_takes_settings_that_the_command_has(
    backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    takes = emitter(backend).takes
    assert takes <= set(Settings.__dataclass_fields__)
    with pytest.raises(SystemExit):
        cli.main(["emit", "--help"])
    told = capsys.readouterr().out
    assert all(flag(name) in told for name in takes)
    assert f"  {backend} " in told


def test_templates_are_shipped_with_the_package() -> None:
    folder = shelf("plans") / "templates"
    assert {path.parent.name for path in folder.rglob("*.j2")} >= {"dynamo", "vllm", "sglang", "afd-plugin"}
