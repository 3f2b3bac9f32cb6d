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

MODELS = EXAMPLES / "models"
LLAMA, MOE = "llama.int4/model.onnx", "qwen3_moe.gqa_moe.onnx"

JOBS = {
    "colocated": (LLAMA, {"h100-x8": 2}),
    "wide": (MOE, {"h100-x8": 2}),
    "rocm": (MOE, {"mi300x-x8": 1}),
    "phases": (LLAMA, {"h20-x8": 1, "l40s-x8": 1}),
    "experts": (MOE, {"h20-x8": 1, "l40s-x8": 1}),
    "lpx": (LLAMA, {"groq3-lpx": 1}),
}
"""Name to model and fleet; 'wide' spreads experts over two nodes, 'experts' has them on their own pool."""


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name in ``JOBS``, or 'tiny', to a plan folder; not to be changed."""

    @functools.cache
    def compiled(name: str) -> Path:
        if name == "tiny":
            return tiny_plan(tmp_path_factory.getbasetemp())
        folder = tmp_path_factory.mktemp("plans") / name
        model, fleet = JOBS[name]
        compile_job(small_job(model, fleet, 64), MODELS, folder)
        return folder

    return compiled


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
