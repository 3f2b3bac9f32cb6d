"""The whole of a calibration: time, fit, declare."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from disaggc.calibration.declaring import Machine, system_of, without_messages
from disaggc.calibration.engine import measured_steps
from disaggc.calibration.fitting import Kernels, Messages, Reading, fit_kernels, fit_messages
from disaggc.calibration.probing import call_probe, kernel_probes, open_all, timed
from disaggc.errors import ExecutorError, JobError
from disaggc.runtime.stopwatch import copied_bytes_per_s, engine_version, usable_cores
from disaggc.targets import System

DEFAULT_S = 18.0
LEAST_S = 0.5
UNUSABLE = 1.0
"""Spread of the repeats from which on nothing is declared, unless it is insisted on."""
_ON_KERNELS = 0.6


@dataclass(frozen=True, slots=True)
class Options:
    """How to calibrate.

    Attributes:
        name: What the system is called.
        threads: Threads of one executor.
        seconds: How long to measure, opening not counted.
        force: Declare a machine that is too busy to be measured.
        tell: Told what is being done.
    """

    name: str = "here"
    threads: int = 1
    seconds: float = DEFAULT_S
    force: bool = False
    tell: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What came out.

    Attributes:
        readings: Every graph with its time.
        kernels, messages: The constants.
        system: The same as a declared system.
    """

    machine: Machine
    readings: tuple[Reading, ...]
    kernels: Kernels
    messages: Messages
    system: System


def calibrate(options: Options) -> Calibrated:
    """Measure the machine that this runs on.

    Raises:
        JobError: Threads or seconds make no sense here.
        ExecutorError: The machine is so busy that its repeats say nothing.
    """
    cores = usable_cores()
    _check(options, cores)
    options.tell("opening small graphs")
    probes = list(open_all([*kernel_probes(), call_probe()], options.threads))
    *readings, call = timed(probes, options.seconds * _ON_KERNELS, options.tell)
    kernels = fit_kernels(readings)
    machine = _machine(options, cores, statistics.median(r.spread for r in readings))
    del probes
    pair = _pair(machine, kernels)
    parallel = machine.executors > 1
    budget_s = options.seconds * (1 - _ON_KERNELS)
    steps, spread = measured_steps(pair, options.threads, parallel, budget_s, options.tell)
    machine = replace(machine, step_spread=spread)
    if machine.apart > UNUSABLE and not options.force:
        raise ExecutorError(
            f"This machine is busy: the middle half of the repeats lie {machine.apart:.0%} of their median "
            f"apart. Let nothing else run, or insist with --force."
        )
    messages = fit_messages(steps, call.seconds)
    system = system_of(options.name, machine, kernels, messages)
    return Calibrated(machine, tuple(readings), kernels, messages, system)


def _check(options: Options, cores: int) -> None:
    if not 1 <= options.threads <= cores:
        raise JobError(f"--threads {options.threads}: this process may use {cores} cores. Give 1 to {cores}.")
    if not options.seconds >= LEAST_S:
        raise JobError(f"--seconds {options.seconds:g} is too short to measure in. Give {LEAST_S:g} or more.")
    if not options.name.replace("-", "").isalnum() or not options.name.islower():
        raise JobError(f"--name '{options.name}': use lower-case letters, digits and dashes, as systems do.")


def _pair(machine: Machine, kernels: Kernels) -> tuple[System, System]:
    """Two executors of this machine, as far as it is known, for the small decoder's cut."""
    first, second = (without_messages(name, machine, kernels) for name in ("first", "second"))
    return first, second


def _machine(options: Options, cores: int, spread: float) -> Machine:
    options.tell("memory")
    return Machine(
        processor=_processor(),
        cores=cores,
        threads=options.threads,
        memory_bytes=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        engine=engine_version(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        spread=spread,
        copied_bytes_per_s=copied_bytes_per_s(0.1),
    )


def _processor() -> str:
    """The processor's name; Linux alone tells it without a program of its own."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"
