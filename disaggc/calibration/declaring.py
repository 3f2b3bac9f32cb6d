"""A calibrated machine as a declared system, and a system as TOML."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from disaggc.calibration.fitting import Kernels, Messages
from disaggc.targets import (
    KINDS,
    Confidence,
    Device,
    Efficiency,
    Figure,
    Link,
    Memory,
    System,
)
from disaggc.targets.figure import INFERRED

SOURCE = "measured-here"
"""Tag in targets/sources.toml."""
WATTS = 15.0
QUIET = 0.2
"""Spread of the repeats up to which a machine counts as quiet."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what something was measured.

    Attributes:
        processor: Its name, for people.
        cores: Cores that may be used.
        threads: Threads of one executor.
        memory_bytes: Physical memory.
        engine: onnxruntime's version.
        date: YYYY-MM-DD.
        spread: The median spread of the repeats of graphs.
        step_spread: The same of the small decoder's steps.
        copied_bytes_per_s: From memory to memory, by one core.
    """

    processor: str
    cores: int
    threads: int
    memory_bytes: float
    engine: str
    date: str
    spread: float
    copied_bytes_per_s: float
    step_spread: float = 0.0

    @property
    def executors(self) -> int:
        """How many executors can compute at a time."""
        return max(self.cores // self.threads, 1)

    @property
    def is_quiet(self) -> bool:
        """Whether nobody else seems to have used it meanwhile."""
        return self.apart <= QUIET

    @property
    def apart(self) -> float:
        """How far repeats lie apart, whatever they are of."""
        return max(self.spread, self.step_spread)

    @property
    def how(self) -> str:
        """One line on where the numbers come from."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        told = f"measured on this machine, {self.date}, onnxruntime {self.engine}, {threads}"
        return f"{told}; repeats lie {self.apart:.0%} apart{'' if self.is_quiet else ': NOT QUIET'}"


def system_of(name: str, machine: Machine, kernels: Kernels, messages: Messages) -> System:
    """One executor of this machine as a system; a fleet counts as many as the machine has room for."""
    return _Declarer(name, machine).system(kernels, messages)


def without_messages(name: str, machine: Machine, kernels: Kernels) -> System:
    """The same before messages were measured."""
    return system_of(name, machine, kernels, Messages(0.0, 0.0, None, None))


@dataclass(frozen=True)
class _Declarer:
    name: str
    machine: Machine

    def measured(self, value: float, unit: str, note: str = "", off: float = 0.0) -> Figure:
        """A figure with an interval: the spread of the graphs' repeats, or how far else it was ``off``."""
        wide = max(self.machine.spread, off)
        low, high = value * max(1 - wide, 0.0), value * (1 + wide)
        told = f"{self.machine.how}. {note}".rstrip(". ") + "."
        numbers = (_rounded(v) for v in (low, value, high))
        low, value, high = numbers
        return Figure(value, unit, SOURCE, self.machine.date, Confidence.M, low, high, told)

    def inferred(self, value: float, unit: str, note: str) -> Figure:
        """A figure that nobody measured."""
        return Figure(_rounded(value), unit, INFERRED, self.machine.date, Confidence.I, note=note)

    def exact(self, value: float, unit: str, note: str) -> Figure:
        """What the operating system says."""
        return Figure(_rounded(value), unit, SOURCE, self.machine.date, Confidence.M, note=note)

    def system(self, kernels: Kernels, messages: Messages) -> System:
        machine = self.machine
        what = f"{machine.threads} of {machine.cores} cores of one machine ({machine.processor})"
        return System(
            name=self.name,
            title=f"One executor on {what}",
            device=self.device(kernels),
            count=self.exact(1, "devices", "One executor; a fleet counts them."),
            scale_up=self.local_link(messages),
            scale_up_devices=self.exact(1, "devices", "One executor."),
            scale_out=self.process_link(messages),
            power=self.inferred(
                WATTS * machine.threads, "W", f"Not measured: {WATTS:g} W a core; set your own."
            ),
            quantum=1,
            host="itself",
            status="Here",
            step_overhead=self.measured(
                max(messages.step, 1e-9) * 1e6,
                "us",
                "Feeds, choice of the token, one call of a session",
                machine.step_spread,
            ),
            notes=f"{machine.how}. Room for {machine.executors} of it at a time.",
        )

    def device(self, kernels: Kernels) -> Device:
        """Memories, arithmetic, and what kernels reach of both."""
        machine = self.machine
        share = machine.memory_bytes / machine.executors
        cache = Memory(
            "sram",
            self.measured(kernels.cache_bytes / 2**20, "MiB", "The most that still streamed at this rate"),
            self.measured(kernels.bytes_per_s["gemm"] / 1e9, "GB/s", "Weights of MatMul, in cache"),
        )
        main = Memory(
            "ddr",
            self.exact(share / 1e9, "GB", "Physical memory over the executors that there is room for."),
            self.measured(kernels.main_bytes_per_s / 1e9, "GB/s", "Weights of MatMul, out of cache"),
        )
        memories = (cache, main) if kernels.main_bytes_per_s < kernels.bytes_per_s["gemm"] else (main,)
        rate = self.measured(kernels.flops_per_s["gemm"] / 1e9, "GFLOPS", "MatMul over many rows")
        return Device(
            name=f"{self.name}-executor",
            vendor=machine.processor,
            kind="cpu",
            memories=memories,
            compute={"fp32": rate},
            efficiency=self.efficiency(kernels),
            formats=("fp32",),
        )

    def efficiency(self, kernels: Kernels) -> Efficiency:
        """Shares of what MatMul reaches; kinds that were not measured are taken to reach as much."""
        return Efficiency(
            name=f"{self.name}-executor",
            t0=self.exact(0, "us", "Every node of the graph is counted by itself, under 'node'."),
            p=self.measured(kernels.sharpness, "ratio", "", off=0.0)
            if kernels.sharpness > 1
            else self.exact(1, "ratio", f"{self.machine.how}. Times of arithmetic and memory add up."),
            ec=self.shares(kernels, kernels.flops_per_s),
            em=self.shares(kernels, kernels.bytes_per_s),
            node={
                kind: self.measured(seconds * 1e6, "us", off=kernels.errors.get(kind, 0.0))
                for kind, seconds in {"embedding": kernels.node["elementwise"], **kernels.node}.items()
            },
        )

    def shares(self, kernels: Kernels, rates: Mapping[str, float]) -> dict[str, Figure]:
        """Kind to the share of what MatMul reaches."""
        found = {}
        for kind in KINDS:
            if kind in rates:
                share = min(rates[kind] / rates["gemm"], 1.0)
                figure = self.measured(share, "ratio", "Of MatMul's", off=kernels.errors.get(kind, 0.0))
                found[kind] = dataclasses.replace(figure, high=min(figure.high or share, 1.0))
            else:
                found[kind] = self.inferred(1.0, "ratio", "Taken to be as good as MatMul; not measured.")
        return found

    def local_link(self, messages: Messages) -> Link:
        """Between executors in one process: no copy, only who is told what."""
        return Link(
            name=f"{self.name}-in-process",
            title="Executors in one process",
            latency=self.exact(0, "us", "A tensor changes hands."),
            bandwidth_one_way=self.measured(self.machine.copied_bytes_per_s / 1e9, "GB/s", "A copy"),
            occupancy=self.measured(
                messages.local * 1e6, "us", "Half of what a cut adds to a step", self.machine.step_spread
            ),
        )

    def process_link(self, messages: Messages) -> Link:
        """Between executors in processes: a stage reads what another core wrote to shared memory."""
        title = "Executors in processes, over shared memory"
        rate = self.measured(
            self.machine.copied_bytes_per_s / 1e9, "GB/s", "A copy: the reader's core fetches it"
        )
        if messages.occupancy is None or messages.latency is None:
            why = "Not measured: there is room for one executor only; set your own."
            latency, occupancy = self.inferred(10, "us", why), self.inferred(10, "us", why)
        else:
            latency = self.latency(messages.latency, messages.woken)
            occupancy = self.measured(
                messages.occupancy * 1e6,
                "us",
                "Of each end, with a call of a session",
                self.machine.step_spread,
            )
        return Link(f"{self.name}-processes", title, latency, rate, occupancy=occupancy)

    def latency(self, seconds: float, woken: float | None) -> Figure:
        """How long a message is on its way; at worst, to a receiver that sleeps."""
        awake = self.measured(
            seconds * 1e6, "us", "To a receiver that looks for it", self.machine.step_spread
        )
        if woken is None:
            return awake
        asleep = _rounded(max(woken * 1e6, awake.value))
        note = f"{awake.note} At most: to one that sleeps and is woken."
        return dataclasses.replace(awake, high=asleep, note=note)


def toml_of(system: System) -> str:
    """The file that ``load_library`` reads as this very system, its parts written in place."""
    lines = ["# Carried out by disaggc/targets/system.py (System). Written by disaggc calibrate."]
    lines.append(f"# {system.notes}")
    lines.extend(_table("", system, leave="name"))
    return "\n".join(lines) + "\n"


def _table(path: str, record: object, leave: str = "") -> Iterator[str]:
    """A record's own values, then the tables below it."""
    below: list[tuple[str, object]] = []
    for key, value in _items(record):
        if key == leave or value is None or value == () or value == {}:
            continue
        if isinstance(value, Figure):
            yield f"{key} = {_figure(value)}"
        elif isinstance(value, str | int | float) or _is_plain(value):
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
        else:
            below.append((f"{path}.{key}" if path else key, value))
    for name, value in below:
        for part in value if isinstance(value, tuple) else (value,):
            yield ""
            yield f"[[{name}]]" if isinstance(value, tuple) else f"[{name}]"
            yield from _table(name, part)


def _items(record: object) -> list[tuple[str, object]]:
    if isinstance(record, Mapping):
        return [(str(key), value) for key, value in record.items()]
    assert dataclasses.is_dataclass(record)
    return [(f.name, getattr(record, f.name)) for f in dataclasses.fields(record)]


def _is_plain(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) for each in value)


def _figure(figure: Figure) -> str:
    entries = []
    for field in dataclasses.fields(figure):
        value = getattr(figure, field.name)
        if isinstance(value, Enum):
            value = value.value
        if value is not None and value != "":
            entries.append(f"{field.name} = {json.dumps(value, ensure_ascii=False)}")
    return f"{{ {', '.join(entries)} }}"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
