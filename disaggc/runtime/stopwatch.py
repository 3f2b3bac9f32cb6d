"""Times a graph as executors run it: bound once, then called again and again."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns

import numpy as np

from disaggc.runtime.engine import Binding, InferenceSession, OrtValue, Session, __version__, executing
from disaggc.runtime.failures import FAILURES
from disaggc.runtime.tensors import Array, wrap
from disaggc.runtime.threads import session_options

WARM_UP = 3
_COPIED = 8 << 20


@dataclass(frozen=True, slots=True)
class Fed:
    """An input, and the output that is written into its memory ('' for none)."""

    array: Array
    written_by: str = ""


def engine_version() -> str:
    """Of onnxruntime."""
    return str(__version__)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stopwatch:
    """A session that can be timed on some inputs."""

    def __init__(self, session: Session, feeds: Mapping[str, Fed]) -> None:
        """Bind the inputs and run a few times."""
        self._kept = {name: wrap(fed.array) for name, fed in feeds.items()}
        binding: Binding = session.io_binding()
        shared = {fed.written_by: self._kept[name] for name, fed in feeds.items() if fed.written_by}
        for name, value in self._kept.items():
            binding.bind_ortvalue_input(name, value)
        for port in session.get_outputs():
            _bind_output(binding, port.name, shared)
        self._execute = executing(session, binding)
        for _ in range(WARM_UP):
            self._execute()

    def seconds(self, budget_s: float) -> float:
        """The median run of those that fit in ``budget_s`` seconds; of one at least."""
        found: list[int] = []
        end = perf_counter() + budget_s
        while not found or perf_counter() < end:
            start = perf_counter_ns()
            self._execute()
            found.append(perf_counter_ns() - start)
        return statistics.median(found) / 1e9


def open_graph(model: bytes, threads: int) -> Session | None:
    """A graph's session; None if this onnxruntime has no kernels for it."""
    options = session_options(threads)
    try:
        return InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except FAILURES:
        return None


def copied_bytes_per_s(budget_s: float) -> float:
    """Bytes per second that one core copies from memory to memory."""
    source, target = np.ones(_COPIED, np.uint8), np.empty(_COPIED, np.uint8)
    target[:] = source
    found: list[int] = []
    end = perf_counter() + budget_s
    while not found or perf_counter() < end:
        start = perf_counter_ns()
        target[:] = source
        found.append(perf_counter_ns() - start)
    return _COPIED / (statistics.median(found) / 1e9)


def _bind_output(binding: Binding, name: str, shared: Mapping[str, OrtValue]) -> None:
    if name in shared:
        binding.bind_ortvalue_output(name, shared[name])
    else:
        binding.bind_output(name)
