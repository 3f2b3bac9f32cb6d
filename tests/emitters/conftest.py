"""Plans of every shape, compiled once; wheels of serving stacks, where somebody fetched them."""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import EXAMPLES, small_job, tiny_plan

from disaggc.compiler import compile_job

from .shapes import by_phase, experts_apart, on_one_pool

MODELS = EXAMPLES / "models"
LLAMA, MOE = "llama.int4/model.onnx", "qwen3_moe.gqa_moe.onnx"

JOBS = {
    "llama": (LLAMA, {"h100-x8": 2}),
    "moe": (MOE, {"h100-x8": 2}),
    "lpx": (LLAMA, {"groq3-lpx": 1}),
}
"""Name to model and fleet: one system each, so that there is one mode."""

SHAPES: dict[str, tuple[str, Callable[[Path, Path], Path]]] = {
    "colocated": ("llama", lambda plan, target: on_one_pool(plan, target, "h100-x8", 16)),
    "wide": ("moe", lambda plan, target: on_one_pool(plan, target, "h100-x8", 16)),
    "rocm": ("moe", lambda plan, target: on_one_pool(plan, target, "mi300x-x8", 8)),
    "phases": ("llama", by_phase),
    "experts": ("moe", experts_apart),
}
"""Name to the compiled plan that it is made from; 'wide' spreads experts over two nodes."""


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name in ``JOBS``, or 'tiny', to a plan folder as the compiler wrote it; not to be changed."""

    @functools.cache
    def compile_once(name: str) -> Path:
        if name == "tiny":
            return tiny_plan(tmp_path_factory.getbasetemp())
        folder = tmp_path_factory.mktemp("compiled") / name
        model, fleet = JOBS[name]
        compile_job(small_job(model, fleet, 64), MODELS, folder)
        return folder

    return compile_once


@pytest.fixture(scope="session")
def plans(compiled: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name in ``SHAPES`` or ``JOBS``, or 'tiny', to a plan folder; not to be changed."""

    @functools.cache
    def made(name: str) -> Path:
        if name not in SHAPES:
            return compiled(name)
        origin, make = SHAPES[name]
        return make(compiled(origin), tmp_path_factory.mktemp("plans") / name)

    return made


@pytest.fixture(scope="session")
def wheels() -> Path:
    """The folder $DISAGGC_WHEELS of wheels that somebody fetched; nothing is in it by default."""
    return Path(os.environ.get("DISAGGC_WHEELS") or "nowhere")


@pytest.fixture(scope="session")
def dynamo_wheel(wheels: Path) -> zipfile.ZipFile:
    """The ai-dynamo wheel; tests that want it are skipped without it."""
    found = sorted(wheels.glob("ai_dynamo-1.6*.whl"))
    if not found:
        pytest.skip("no ai-dynamo 1.6 wheel: pip download --no-deps ai-dynamo==1.6.1, set DISAGGC_WHEELS")
    return zipfile.ZipFile(found[0])
