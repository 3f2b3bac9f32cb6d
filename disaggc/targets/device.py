"""One accelerator or processor: its memories, dense rates and efficiencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from disaggc.errors import DeclarationError, nearest
from disaggc.targets.checks import check_base, check_known, check_rates
from disaggc.targets.efficiency import Efficiency
from disaggc.targets.figure import Figure
from disaggc.targets.formats import FORMATS, rate_for

#: 'gpu' stands for every accelerator that runs kernels from HBM or GDDR, Gaudi and Trainium too.
DEVICE_KINDS: Final = ("gpu", "sram", "rdu", "cpu", "wafer")
_HOLDS_WEIGHTS_IN_SRAM: Final = ("sram", "wafer")


@dataclass(frozen=True, slots=True)
class Memory:
    """One level of a device's memory.

    Attributes:
        name: 'sram', 'hbm', 'gddr' or 'ddr'.
        capacity: Bytes that a program can use.
        bandwidth: Bytes per second, read.
    """

    name: str
    capacity: Figure
    bandwidth: Figure

    def __post_init__(self) -> None:
        check_known("memory", [self.name], ("sram", "hbm", "gddr", "ddr"))
        check_base("capacity", self.capacity, "B")
        check_base("bandwidth", self.bandwidth, "B/s")


@dataclass(frozen=True, slots=True)
class Device:
    """What one device can hold and compute.

    Attributes:
        name: The file's stem.
        vendor: Who makes it.
        kind: One of ``DEVICE_KINDS``.
        memories: Fastest first.
        compute: Number format to dense rate, as published; see ``rate`` for the others.
        efficiency: Constants of the time model.
        formats: Weight formats that it can hold.
        sparse: Number format to the rate with structured sparsity; never used as a dense one.
        layer_latency: Fixed time of one block (attention or FFN) of one layer, whatever the
            batch; None where the roofline and ``efficiency.t0`` say it all.
        power: Of one device, W.
        note: Anything else to know.
    """

    name: str
    vendor: str
    kind: str
    memories: tuple[Memory, ...]
    compute: Mapping[str, Figure]
    efficiency: Efficiency
    formats: tuple[str, ...]
    sparse: Mapping[str, Figure] = field(default_factory=dict)
    layer_latency: Figure | None = None
    power: Figure | None = None
    note: str = ""

    def __post_init__(self) -> None:
        check_known("kind", [self.kind], DEVICE_KINDS)
        check_known("format", self.formats, FORMATS)
        check_rates("compute", self.compute, FORMATS, "FLOP/s")
        check_rates("sparse", self.sparse, FORMATS, "FLOP/s")
        check_base("layer_latency", self.layer_latency, "s")
        check_base("power", self.power, "W")
        self._check_memories()
        if not self.compute or not self.formats:
            raise DeclarationError("'compute' and 'formats' each need at least one number format.")

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def main(self) -> Memory:
        """The memory that weights and KV live in: SRAM only on SRAM parts, else HBM, GDDR or DDR."""
        if self.kind in _HOLDS_WEIGHTS_IN_SRAM:
            return self.memories[0]
        return next((m for m in self.memories if m.name != "sram"), self.memories[0])

    @property
    def cache(self) -> Memory | None:
        """What a processor keeps by itself of what it last read: the SRAM before its main memory."""
        if self.kind != "cpu":
            return None
        return next((memory for memory in self.memories if memory.name == "sram"), None)

    @property
    def slower(self) -> Memory | None:
        """The next slower memory after ``main``, which cold experts and caches may spill into."""
        after = self.memories.index(self.main) + 1
        return self.memories[after] if after < len(self.memories) else None

    def memory(self, name: str) -> Memory:
        """The memory of this name ('sram', 'hbm', 'gddr', 'ddr').

        Raises:
            DeclarationError: The device has no such memory.
        """
        for memory in self.memories:
            if memory.name == name:
                return memory
        raise DeclarationError(
            f"Device '{self.name}' has no memory '{name}'.{nearest(name, [m.name for m in self.memories])}"
        )

    def rate(self, number_format: str) -> Figure:
        """The dense rate for a format, FLOP/s.

        A format without a published rate is computed at the next wider published one: a GPU
        without FP4 computes FP4 weights at its FP8, else its BF16 rate. Where only narrower
        ones are published (LP30: FP8 alone), the rate is the widest of them scaled by the ratio
        of bits, marked inferred: BF16 on LP30 is FP8 / 2.

        Raises:
            DeclarationError: There is no such format.
        """
        return rate_for(number_format, self.compute)

    def _check_memories(self) -> None:
        if not self.memories:
            raise DeclarationError("'memories' is empty; a device needs at least one.")
        rates = [memory.bandwidth.si for memory in self.memories]
        if rates != sorted(rates, reverse=True):
            raise DeclarationError("'memories' must be listed fastest first.")
        names = [memory.name for memory in self.memories]
        if len(set(names)) < len(names):
            raise DeclarationError(f"'memories' names one memory twice: {', '.join(names)}.")
