"""A machine whose constants are known: made up, so that what comes out can be told in advance."""

from __future__ import annotations

from pathlib import Path

from disaggc.calibration import Kernels, Machine, Messages, Reading, system_of, write_system
from disaggc.calibration.fitting import roof
from disaggc.plans import Job, ModelSpec, SearchSpec, TierSpec
from disaggc.targets import System, load_library

KERNELS = Kernels(
    node={
        "elementwise": 1e-6,
        "norm": 1.5e-6,
        "movement": 0.4e-6,
        "gemm": 1.4e-6,
        "attention": 11e-6,
        "moe": 13e-6,
    },
    flops_per_s={"gemm": 80e9, "attention": 9e9, "moe": 70e9},
    bytes_per_s={"gemm": 50e9, "attention": 30e9, "moe": 35e9},
    main_bytes_per_s=16e9,
    cache_bytes=16 * 2.0**20,
    sharpness=1.2,
    errors={},
)
MESSAGES = Messages(step=40e-6, local=5e-6, occupancy=12e-6, latency=7e-6, woken=50e-6)
MACHINE = Machine(
    processor="made up",
    cores=2,
    threads=1,
    memory_bytes=16e9,
    engine="1.0",
    date="2026-11-25",
    spread=0.05,
    copied_bytes_per_s=8e9,
)


def known_system(name: str = "here", messages: Messages = MESSAGES, kernels: Kernels = KERNELS) -> System:
    """One executor of it."""
    return system_of(name, MACHINE, kernels, messages)


def known_library(folder: Path, *systems: System) -> Path:
    """A folder for --library that declares systems."""
    for system in systems or (known_system(),):
        write_system(system, folder)
    return folder


def loaded(folder: Path, system: System) -> System:
    """A system, written and read back."""
    return load_library(known_library(folder, system)).system(system.name)


def reading(kind: str, nodes: int, flops: float = 0.0, moved: float = 0.0, **others: int) -> Reading:
    """What that machine would take for a graph."""
    rate = KERNELS.bytes_per_s.get(kind, 1.0)
    if kind == "gemm" and moved > KERNELS.cache_bytes:
        rate = KERNELS.main_bytes_per_s
    seconds = nodes * KERNELS.node[kind] + sum(n * KERNELS.node[other] for other, n in others.items())
    if flops or moved:
        seconds += roof(flops / KERNELS.flops_per_s[kind], moved / rate, KERNELS.sharpness)
    return Reading(kind, kind, nodes, flops, moved, moved, seconds, 0.0, others)


def known_job(onnx: str, mode: str, micro_batches: int) -> Job:
    """One request a micro-batch, on two executors of the machine; the tier asks for nothing."""
    tier = TierSpec(
        name="t",
        context_tokens=128,
        ttft_ms=1e9,
        tokens_per_s_per_user=1e-3,
        input_tokens=8,
        output_tokens=32,
    )
    search = SearchSpec((1,), (micro_batches,), mode)
    return Job(ModelSpec(onnx), {"here": 1, "there": 1}, (tier,), search=search)
