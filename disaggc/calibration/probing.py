"""What is timed, round after round, so that a change of the machine's speed hits all of it alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from disaggc.backends.probes import Probe, Tensor, attention, experts, products, starts
from disaggc.calibration.fitting import Reading
from disaggc.runtime.stopwatch import Fed, Stopwatch, open_graph
from disaggc.runtime.tensors import Array, container

ROUNDS = 5
MIB = 1 << 20

Tell = Callable[[str], None]


def kernel_probes() -> list[Probe]:
    """The graphs of one calibration. Square weights of 512 x 512 are one MiB each."""
    return [
        *(starts("elementwise", op, 100) for op in ("Sigmoid", "Cos", "Mul")),
        starts("norm", "LayerNormalization", 100),
        starts("movement", "Reshape", 100),
        *products(64, 16),
        *products(128, 16),
        *products(256, 8),
        *products(512, 1),
        *products(512, 4, (1, 4, 16, 64)),
        *products(512, 16),
        *products(512, 96, (1, 2, 4, 8, 16)),
        *(attention(4, 2, 32, cached) for cached in (16, 512)),
        attention(8, 8, 64, 128),
        attention(8, 2, 64, 384),
        attention(16, 4, 64, 64),
        *(experts(128, 128, 8, 2, rows, 4) for rows in (1, 2, 4)),
        experts(256, 256, 8, 2, 1, 2),
        experts(256, 256, 8, 4, 1, 2),
        experts(512, 256, 8, 2, 1, 1),
    ]


def call_probe() -> Probe:
    """A graph of one small node: what a call of a session takes."""
    return starts("elementwise", "Sigmoid", 1)


@dataclass(frozen=True, slots=True)
class Open:
    """A probe with its session."""

    probe: Probe
    stopwatch: Stopwatch


def open_all(probes: Sequence[Probe], threads: int) -> Iterator[Open]:
    """Those that this onnxruntime has kernels for; neighbours with one graph share its session."""
    model, session = b"", None
    for probe in probes:
        if probe.model is not model:
            model, session = probe.model, open_graph(probe.model, threads)
        feeds = {name: Fed(_array(tensor), tensor.written_by) for name, tensor in probe.feeds.items()}
        if session is not None:
            yield Open(probe, Stopwatch(session, feeds))


def timed(probes: Sequence[Open], budget_s: float, tell: Tell) -> list[Reading]:
    """Every probe in every round."""
    each = budget_s / (ROUNDS * max(len(probes), 1))
    times: list[list[float]] = [[] for _ in probes]
    for turn in range(ROUNDS):
        tell(f"kernels: round {turn + 1} of {ROUNDS}")
        for found, opened_probe in zip(times, probes, strict=True):
            found.append(opened_probe.stopwatch.seconds(each))
    return [_reading(one.probe, found) for one, found in zip(probes, times, strict=True)]


def spread(values: Sequence[float]) -> float:
    """How far the middle half of some repeats lies apart, over their median."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / statistics.median(values)


def undisturbed(values: Sequence[float]) -> float:
    """The lower quartile of some repeats: what others take of a machine only ever adds."""
    return statistics.quantiles(values, n=4, method="inclusive")[0]


def _reading(probe: Probe, times: Sequence[float]) -> Reading:
    return Reading(
        probe.name,
        probe.kind,
        probe.nodes,
        probe.flops,
        probe.bytes,
        probe.resident,
        undisturbed(times),
        spread(times),
        probe.others,
    )


def _array(tensor: Tensor) -> Array:
    kind = container(tensor.dtype)
    if tensor.values:
        return np.full(tensor.shape, tensor.values[0], kind)
    if tensor.dtype == "float32":
        return np.random.default_rng(0).standard_normal(tensor.shape, dtype=np.float32)
    return np.zeros(tensor.shape, kind)
