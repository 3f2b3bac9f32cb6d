"""The planner's profile: the plan's own predictions are in it, and Dynamo's own reader reads it."""

from __future__ import annotations

import ast
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jobs import small_job

from disaggc.backends.emitters import Settings, emit
from disaggc.compiler import compile_job
from disaggc.plans import Plan, open_plan

from .conftest import LLAMA, MODELS

Plans = Callable[[str], Path]
Profile = tuple[Plan, dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def profiles(plans: Plans, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name to an emitted folder with a profile."""
    done: dict[str, Path] = {}

    def emitted(name: str) -> Path:
        if name not in done:
            done[name] = tmp_path_factory.mktemp("profiles") / name
            emit(plans(name), "dynamo", done[name], Settings(checkpoint="a/b"))
        return done[name]

    return emitted


def arrays(folder: Path, phase: str) -> dict[str, Any]:
    return dict(np.load(folder / "profile" / f"selected_{phase}_interpolation" / "raw_data.npz"))


def test_a_prompt_as_planned_takes_the_planned_time_to_first_token(
    compiled: Plans, profiles: Callable[[str], Path]
) -> None:
    for name in ("llama", "moe"):
        plan, found = open_plan(compiled(name)), arrays(profiles(name), "prefill")
        (at,) = np.flatnonzero(found["prefill_isl"] == plan.schedule.input_tokens)
        told_us = found["prefill_ttft"][at] * 1e3
        np.testing.assert_allclose(told_us, plan.prediction.ttft_us.optimistic, rtol=1e-6)


def test_a_batch_as_planned_takes_the_planned_time_per_token(tmp_path: Path) -> None:
    """Where prefill takes next to nothing: a plan's time per token has its share, a profile has not."""
    job = small_job(LLAMA, {"h100-x8": 1}, 64)
    tier = replace(job.tier[0], input_tokens=16, output_tokens=4000, context_tokens=4096)
    plan = compile_job(replace(job, tier=(tier,)), MODELS, tmp_path / "plan")
    emit(tmp_path / "plan", "dynamo", tmp_path / "out", Settings(checkpoint="a/b"))
    found = arrays(tmp_path / "out", "decode")
    requests = plan.schedule.micro_batch * plan.schedule.micro_batches / plan.pools[0].parallelism.dp
    context = plan.schedule.input_tokens + plan.schedule.output_tokens // 2
    usage = requests * context / found["max_kv_tokens"][0]
    (at,) = np.flatnonzero((found["y_context_length"] == context) & np.isclose(found["x_kv_usage"], usage))
    np.testing.assert_allclose(found["z_itl"][at] * 1e3, plan.prediction.tpot_us.conservative, rtol=5e-3)


def test_longer_prompts_and_fuller_caches_take_longer(profiles: Callable[[str], Path]) -> None:
    prefill, decode = arrays(profiles("phases"), "prefill"), arrays(profiles("phases"), "decode")
    assert (np.diff(prefill["prefill_ttft"]) > 0).all()
    for context in np.unique(decode["y_context_length"]):
        rows = decode["y_context_length"] == context
        assert (np.diff(decode["z_itl"][rows]) >= 0).all()
    assert decode["x_kv_usage"].max() <= 1


def test_caches_of_an_engine_hold_at_least_what_was_planned(
    compiled: Plans, profiles: Callable[[str], Path]
) -> None:
    plan, found = open_plan(compiled("moe")), arrays(profiles("moe"), "decode")
    planned = plan.schedule.micro_batch * plan.schedule.micro_batches * plan.schedule.context_tokens
    assert found["max_kv_tokens"][0] >= planned


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_dynamos_own_reader_reads_it(
    dynamo_wheel: zipfile.ZipFile, profiles: Callable[[str], Path], phase: str
) -> None:
    source = ast.parse(dynamo_wheel.read("dynamo/planner/monitoring/perf_metrics.py"))
    name = f"_convert_{phase}_profiling"
    reader = [n for n in source.body if isinstance(n, ast.FunctionDef) and n.name == name]
    record = SimpleNamespace
    names: dict[str, Any] = {"os": os, "json": json, "np": np, "ForwardPassMetrics": record}
    names |= {"ScheduledRequestMetrics": record, "list": list}
    exec(compile(ast.Module([*reader], []), "theirs", "exec"), names)  # noqa: S102 - their reader, our file
    read = names[name](str(profiles("phases") / "profile"))
    found = arrays(profiles("phases"), phase)
    times = found["prefill_ttft" if phase == "prefill" else "z_itl"]
    np.testing.assert_allclose([row.wall_time for row in read], times / 1e3)
    if phase == "decode":
        requests = [row.scheduled_requests.num_decode_requests for row in read]
        wanted = found["x_kv_usage"] * found["max_kv_tokens"][0] / found["y_context_length"]
        np.testing.assert_allclose(requests, wanted, rtol=1e-3)


def test_without_the_model_there_is_a_note_and_no_profile(plans: Plans, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    settings = Settings(checkpoint="a/b", model=tmp_path / "empty")
    written = emit(plans("colocated"), "dynamo", tmp_path / "out", settings)
    assert any("no planner profile: the model is not at hand" in note for note in written.notes)
    assert written.files == ("deployment.yaml",)
