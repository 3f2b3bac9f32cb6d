"""Jobs that compile in a second or two, as objects and as files, and what they come to."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from disaggc.compiler import compile_fleet, compile_job
from disaggc.plans import Job, ModelSpec, SearchSpec, TierSpec, load_job

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples"
TINY = EXAMPLES / "models" / "qwen3_moe.gqa_moe.onnx"
"""A mixture of experts of four layers with weights; it runs in milliseconds."""
BOTH = {"vr-nvl72": 1, "groq3-lpx": 1}
"""One rack with HBM and one with SRAM."""

FEW = SearchSpec(batch=(6144,), micro_batches=(2,))
"""The batch that the example's search ends at."""

JOB = """\
[model]
onnx = "{onnx}"
weights = "fp8"
kv = "fp8"
activations = "bf16"

[fleet]
vr-nvl72 = 1
groq3-lpx = 1

[[tier]]
like = "gtc2026/premium"
input_tokens = 380_000
output_tokens = 4_000
prefix_hit = 0.99

[search]
batch = [6144]
micro_batches = [2]
"""
"""The shipped example over one configuration of batches."""


def tiny_job() -> Job:
    """``examples/tiny_moe.toml`` over one batch: attention on HBM, experts on SRAM."""
    return replace(load_job(EXAMPLES / "tiny_moe.toml"), search=FEW)


def two_tiers() -> Job:
    """The same for two tiers that share the fleet."""
    tiers = (
        TierSpec(like="gtc2026/high", requests_per_s=50.0, prefix_hit=0.9),
        TierSpec(like="gtc2026/premium", requests_per_s=20.0, prefix_hit=0.98),
    )
    return replace(tiny_job(), tier=tiers)


def small_job(onnx: str, fleet: dict[str, int], batch: int, context: int = 4096) -> Job:
    """Any small model on a fleet, with one batch and a tier that it meets easily."""
    tier = TierSpec(
        name="easy", context_tokens=context, ttft_ms=1e5, tokens_per_s_per_user=1.0, output_tokens=64
    )
    return Job(ModelSpec(onnx, "fp8", "fp8", "bf16"), fleet, (tier,), search=SearchSpec((batch,), (1,)))


def write_job(folder: Path, text: str = JOB, onnx: Path = TINY) -> Path:
    """A job file in ``folder``."""
    path = folder / "job.toml"
    path.write_text(text.format(onnx=onnx), encoding="utf-8")
    return path


@functools.cache
def tiny_plan(folder: Path) -> Path:
    """The plan folder of ``tiny_job``, compiled once under ``folder``; not to be changed."""
    output = folder / "tiny_plan"
    compile_job(tiny_job(), EXAMPLES, output)
    return output


@functools.cache
def fleet_folder(folder: Path) -> Path:
    """The folder of ``two_tiers``, compiled once under ``folder``; not to be changed."""
    output = folder / "fleet_plan"
    compile_fleet(two_tiers(), EXAMPLES, output)
    return output
