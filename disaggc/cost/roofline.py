"""Time of one piece of work on a group of devices.

    t = launches * t0 + layer latency + ((F / (ec * P))^p + (B / (em * BW))^p)^(1/p) + collective

Constants come from the device's declared efficiencies (DESIGN of disaggc, section 4; the defaults
hold to 9 to 14 % on published dense GEMM tables). On SRAM parts t0 is 0 and the layer latency,
which holds their hops, governs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disaggc.cost.bill import AS_STORED, RATES, Array, Bill, Formats, format_bits
from disaggc.ir import Point, Role
from disaggc.targets import Device, System

KIND_OF_ROLE = {
    Role.EMBEDDING: "embedding",
    Role.NORM: "norm",
    Role.CORE_ATTENTION: "attention",
    Role.EXPERTS: "moe",
}
"""Which efficiency prices a role; GEMMs are the rest."""

WHOLE_BLOCKS = (Role.CORE_ATTENTION, Role.EXPERTS, Role.FFN, Role.HEAD)
"""Roles that bear the fixed time of a block on a device with a layer latency, one for each block."""

REDUCED = (Role.OUT_PROJECTION, Role.FFN, Role.SHARED_EXPERT, Role.HEAD)
"""Roles whose partial sums a tensor-parallel group reduces."""

STORED_RATE = {32: "bf16", 16: "bf16", 8: "fp8", 4: "int4"}
"""Arithmetic for weights 'as stored', by bits: engines compute float32 checkpoints in bf16."""


@dataclass(frozen=True, slots=True)
class Group:
    """Devices of one pool under one parallelism: dp replicas of pp stages of tp devices.

    Experts are spread over all tp * dp devices of a stage (wide expert parallelism).
    """

    system: System
    count: int
    tp: int
    dp: int
    pp: int

    @property
    def device(self) -> Device:
        """What each of them is."""
        return self.system.device

    @property
    def devices(self) -> int:
        """Devices used."""
        return self.tp * self.dp * self.pp

    @property
    def ep(self) -> int:
        """Devices that a layer's experts are spread over."""
        return self.tp * self.dp


@dataclass(frozen=True, slots=True)
class Work:
    """What is timed: one role of one layer.

    Attributes:
        bill: Its costs.
        launches: Kernels that a serving engine starts.
        width: Activation elements that it hands on for one token.
        kv_heads: Heads its cache can be split over; 0 without a cache.
    """

    role: Role
    bill: Bill
    launches: int
    width: int
    kv_heads: int


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one micro-batch, over whatever grid the point has.

    Attributes:
        compute, memory: What the roofline takes each for alone.
        latency: Launches and layer latency.
        collective: Reduction or exchange within the group.
        total: All of it.
    """

    compute: Array
    memory: Array
    latency: Array
    collective: Array
    total: Array

    def bottleneck(self) -> str:
        """The largest part, for a single point."""
        parts = {
            "compute": float(self.compute),
            "memory": float(self.memory),
            "latency": float(self.latency),
            "collective": float(self.collective),
        }
        return max(parts, key=lambda name: parts[name])


def work_time(work: Work, group: Group, point: Point, formats: Formats) -> Times:
    """Seconds that ``group`` takes for one micro-batch of ``work``.

    Args:
        work: One role of one layer.
        group: Where.
        point: ``batch`` counts the requests of the whole group; replicas share them.
        formats: Serving formats.
    """
    device = group.device
    kind = KIND_OF_ROLE.get(work.role, "gemm")
    flops, moved = per_device(work, group, point, formats)
    rate = device.rate(compute_format(work.bill, formats)).si * device.efficiency.ec[kind].value
    bandwidth = device.main.bandwidth.si * device.efficiency.em[kind].value
    sharpness = device.efficiency.p.value
    compute, memory = np.asarray(flops / rate), np.asarray(moved / bandwidth)
    larger = np.maximum(np.maximum(compute, memory), 1e-18)
    roof = larger * ((compute / larger) ** sharpness + (memory / larger) ** sharpness) ** (1 / sharpness)
    fixed = device.layer_latency.si if device.layer_latency and work.role in WHOLE_BLOCKS else 0.0
    latency = np.asarray(work.launches * device.efficiency.t0.si + fixed)
    collective = _collective(work, group, point, formats)
    return Times(compute, memory, latency, collective, roof + latency + collective)


def compute_format(bill: Bill, formats: Formats) -> str:
    """The arithmetic that a device uses: that of the weights' serving format."""
    if formats.weights != AS_STORED:
        return RATES.get(formats.weights, formats.weights)
    elements = {**bill.weight_elements, **bill.expert_elements}
    bits = max(elements, key=lambda b: elements[b], default=16)
    return STORED_RATE.get(bits, "bf16")


def requests_per_replica(group: Group, batch: Array) -> Array:
    """How many of a batch's requests the busiest data-parallel replica holds."""
    rounded: Array = np.ceil(np.asarray(batch) / group.dp)
    return rounded


def cache_split(work: Work, group: Group) -> int:
    """Devices that a cache is split over: the tensor-parallel group, as far as heads go."""
    return max(1, min(group.tp, work.kv_heads))


def per_device(work: Work, group: Group, point: Point, formats: Formats) -> tuple[Array, Array]:
    """Flops and bytes of the busiest device of a group for one micro-batch of ``work``."""
    if work.bill.routing is not None:
        whole = work.bill.amounts(point, formats)
        spread = whole.flops / group.ep
        moved = whole.weight_bytes / group.tp + (whole.expert_bytes + whole.activation_bytes) / group.ep
        return spread, moved
    share = Point(requests_per_replica(group, point["batch"]), point.new, point.cached)
    mine = work.bill.amounts(share, formats)
    kept = (mine.state_read_bytes + mine.state_write_bytes) / cache_split(work, group)
    return mine.flops / group.tp, mine.weight_bytes / group.tp + mine.activation_bytes / group.tp + kept


def _collective(work: Work, group: Group, point: Point, formats: Formats) -> Array:
    """Seconds of the exchange that ends this work within its group.

    An all-reduce takes two hops and 2 (n-1)/n of the payload over the link; an exchange of tokens with
    experts on other devices takes a hop and the payload each way (alpha + bytes / bandwidth, per topology).
    """
    element = format_bits(formats.activations, work.bill.activation_bits) / 8
    tokens = np.asarray(point["batch"] * point["new"])
    if work.bill.routing is not None and group.dp > 1:
        copies = min(work.bill.routing.chosen, group.ep)
        payload = tokens / group.ep * copies * work.width * element
        return 2 * (_hops(group, group.ep, 1) + payload / group.system.scale_up.bandwidth_one_way.si)
    reduced = work.role in REDUCED or work.bill.routing is not None
    if not reduced or group.tp == 1:
        return np.zeros_like(tokens)
    mine = requests_per_replica(group, point["batch"]) * point["new"] * work.width * element
    share = 2 * (group.tp - 1) / group.tp
    return _hops(group, group.tp, 2) + share * mine / group.system.scale_up.bandwidth_one_way.si


def _hops(group: Group, reach: int, hops: int) -> float:
    """Fixed time of a collective: a launch and its hops; a layer latency has them inside."""
    if group.device.layer_latency is not None:
        return 0.0
    return group.device.efficiency.t0.si + hops * group.system.hop_latency(reach).si


__all__ = [
    "Group",
    "Times",
    "Work",
    "cache_split",
    "compute_format",
    "per_device",
    "requests_per_replica",
    "work_time",
]
