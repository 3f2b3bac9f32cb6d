"""`disaggc compare`: one input of a job varies, and each value gets the plan that it would get alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jobs import EXAMPLES, tiny_job, write_job

from disaggc import cli
from disaggc.compiler import compile_job
from disaggc.errors import JobError
from disaggc.plans import varied


def _compared(
    job: Path, sweep: str, capsys: pytest.CaptureFixture[str], code: int = 0
) -> list[dict[str, Any]]:
    assert cli.main(["compare", str(job), "--with", sweep, "--json"]) == code
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    return rows


def test_each_row_is_the_plan_of_that_value_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = write_job(tmp_path)
    rows = _compared(job, "groq3-lpx=0,1", capsys)
    for row, fleet in zip(rows, ({"vr-nvl72": 1}, {"vr-nvl72": 1, "groq3-lpx": 1}), strict=True):
        alone = compile_job(replace(tiny_job(), fleet=fleet), EXAMPLES, tmp_path / f"{row['value']}")
        assert row["mode"] == alone.mode
        assert row["tokens_per_s"] == pytest.approx(alone.prediction.tokens_per_s.conservative)


def test_a_value_without_a_plan_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _compared(write_job(tmp_path), "tokens_per_s_per_user=400,1000000", capsys)
    assert [row["mode"] is None for row in rows] == [False, True]
    assert rows[1]["reason"].startswith("No plan on")


def test_a_sweep_without_any_plan_exits_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _compared(write_job(tmp_path), "tokens_per_s_per_user=1000000", capsys, code=3)


def test_the_table_names_input_and_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(write_job(tmp_path)), "--with", "groq3-lpx=1"]) == 0
    told = capsys.readouterr().out
    assert "groq3-lpx" in told
    assert "tokens/s/MW" in told
    assert all(len(line) <= 100 for line in told.splitlines())


@pytest.mark.parametrize(
    ("sweep", "why"),
    [
        ("groq3-lpx", "write a name and numbers"),
        ("groq3-lpx=two", "write a name and numbers"),
        ("groq3-lpx=1.5", "must be a whole number"),
        ("groq3-lpx=-1", "must be 0 systems or more"),
        ("input_token=5", "is no number of the tier. Did you mean 'input_tokens'"),
        ("prefix_hit=2", "must be from 0 to less than 1"),
        ("groq4-lpx=1", "Did you mean 'groq3-lpx'"),
    ],
)
def test_a_bad_sweep_is_refused(
    tmp_path: Path, sweep: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(write_job(tmp_path)), "--with", sweep]) == 1
    assert why in capsys.readouterr().err


def test_the_last_system_may_not_be_left_out() -> None:
    with pytest.raises(JobError, match=r"\[fleet\] is empty"):
        varied(replace(tiny_job(), fleet={"cs3": 1}), "cs3", 0)
