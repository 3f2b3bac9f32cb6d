"""A box or rack: devices that are bought, powered and wired together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from disaggc.errors import DeclarationError
from disaggc.targets.checks import check_base
from disaggc.targets.device import Device
from disaggc.targets.figure import INFERRED, Confidence, Figure
from disaggc.targets.link import Link


@dataclass(frozen=True, slots=True)
class Hop:
    """One row of a table of latency by reach.

    Attributes:
        devices: How many devices the message may have to reach.
        latency: One way, s.
    """

    devices: int
    latency: Figure

    def __post_init__(self) -> None:
        check_base("latency", self.latency, "s")

    @property
    def name(self) -> str:
        """How paths to its figure call it ('hops.256-devices.latency')."""
        return f"{self.devices}-devices"


@dataclass(frozen=True, slots=True)
class System:
    """What a fleet counts.

    Attributes:
        name: The file's stem.
        title: What it is, for people.
        device: Each of its devices.
        count: How many devices; ``devices`` is the same as an int.
        scale_up: The link inside a scale-up domain; bandwidth per device.
        scale_up_devices: Devices of one scale-up domain, which may span several systems;
            ``domain`` is the same as an int.
        scale_out: The link to other systems; bandwidth per system.
        power: Drawn by the whole system, W.
        quantum: Devices that are bought or left together.
        host: Its host processors and fabric parts, for people.
        status: Since when it ships, for people.
        price_usd: To buy one; None if nobody says.
        usd_per_h: To own and run one for an hour; None if nobody says.
        host_memory: DRAM beside the devices, B; None if nobody says.
        node_devices: Devices that one host drives, a node of a cluster; None where the system is one node.
        step_overhead: Engine time of a decode step that nothing overlaps; None for the model's guess.
        hops: Latency by reach, nearest first; empty where the scale-up link's latency holds.
        notes: Anything else to know.
    """

    name: str
    title: str
    device: Device
    count: Figure
    scale_up: Link
    scale_up_devices: Figure
    scale_out: Link
    power: Figure
    quantum: int
    host: str
    status: str
    price_usd: Figure | None = None
    usd_per_h: Figure | None = None
    host_memory: Figure | None = None
    node_devices: Figure | None = None
    step_overhead: Figure | None = None
    hops: tuple[Hop, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        check_base("count", self.count, "devices")
        check_base("scale_up_devices", self.scale_up_devices, "devices")
        check_base("power", self.power, "W")
        check_base("price_usd", self.price_usd, "USD")
        check_base("usd_per_h", self.usd_per_h, "USD/h")
        check_base("host_memory", self.host_memory, "B")
        check_base("step_overhead", self.step_overhead, "s")
        check_base("node_devices", self.node_devices, "devices")
        self._check_counts()
        self._check_hops()

    @property
    def devices(self) -> int:
        """How many devices one system has."""
        return int(self.count.value)

    @property
    def domain(self) -> int:
        """How many devices one scale-up domain has; more than ``devices`` where it spans systems."""
        return int(self.scale_up_devices.value)

    @property
    def devices_per_node(self) -> int:
        """How many devices one node has."""
        return self.devices if self.node_devices is None else int(self.node_devices.value)

    @property
    def capacity_bytes(self) -> float:
        """Bytes of the memory that weights and KV live in, all devices together."""
        return self.devices * self.device.main.capacity.si

    @property
    def bytes_per_s(self) -> float:
        """Bandwidth of that memory, all devices together, B/s."""
        return self.devices * self.device.main.bandwidth.si

    def hop_latency(self, devices: int) -> Figure:
        """One-way latency inside the domain when a message may reach any of ``devices`` devices.

        Taken from the declared table of latency by reach where there is one (linear between its
        rows and past the last, level before the first), else the scale-up link's latency.
        """
        exact = [hop.latency for hop in self.hops if hop.devices == devices]
        if exact:
            return exact[0]
        if not self.hops:
            return self.scale_up.latency
        if devices < self.hops[0].devices:
            return self.hops[0].latency
        return _between(self.hops, devices)

    def _check_counts(self) -> None:
        counts = {
            "count": self.count,
            "scale_up_devices": self.scale_up_devices,
            "node_devices": self.node_devices,
        }
        for what, figure in counts.items():
            if figure is None:
                continue
            if figure.value < 1 or figure.value != int(figure.value):
                raise DeclarationError(f"'{what}' must be a whole number of devices, got {figure.value:g}.")
        if not 1 <= self.quantum <= self.devices or self.devices % self.quantum:
            raise DeclarationError(f"'quantum' {self.quantum} does not divide the {self.devices} devices.")

    def _check_hops(self) -> None:
        reach = [hop.devices for hop in self.hops]
        if reach != sorted(set(reach)) or any(devices < 1 for devices in reach):
            raise DeclarationError("'hops' must be listed nearest first, each reach once.")


def _between(hops: tuple[Hop, ...], devices: int) -> Figure:
    """The latency on the line through the two rows around ``devices``, or the last two."""
    if len(hops) == 1:
        return hops[0].latency
    after = next((i for i, hop in enumerate(hops) if hop.devices > devices), len(hops) - 1)
    low, high = hops[after - 1], hops[after]
    share = (devices - low.devices) / (high.devices - low.devices)
    seconds = low.latency.si + share * (high.latency.si - low.latency.si)
    return replace(
        high.latency,
        value=seconds * 1e6,
        unit="us",
        source=INFERRED,
        confidence=Confidence.I,
        low=None,
        high=None,
        note=f"On the line through {low.devices} and {high.devices} devices of {high.latency.source}.",
    )
