"""Time of one piece of work on a group of devices.

    t = launches * t0 + nodes * node + layer latency + collective
        + ((F / (ec * P))^p + (B / (em * BW))^p)^(1/p)

Constants come from the device's declared efficiencies (DESIGN of disaggc, section 4; the defaults
hold to 9 to 14 % on published dense GEMM tables). On SRAM parts t0 is 0 and the layer latency,
which holds their hops, governs. Engines that start every node of a graph as it is written declare a
fixed time for each kind of node. A processor whose cache holds all that a step reads streams from that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from disaggc.cost.bill import AS_STORED, RATES, Array, Bill, Formats, format_bits
from disaggc.cost.collectives import Span, all_reduce_s, all_to_all_s
from disaggc.ir import Point, Role
from disaggc.targets import Device, Memory, System

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

    Attributes:
        count: How many systems they lie in.
        reserved: Devices set aside for it, those left idle included; 0 for all of ``count`` systems.
        spilled_experts, spilled_cache: Share of the experts' weights and of the caches that lie in the
            device's next slower memory (``Device.slower``).
        cached: All that a step reads lies in the device's cache (``in_cache``).
    """

    system: System
    count: int
    tp: int
    dp: int
    pp: int
    reserved: int = 0
    spilled_experts: float = 0.0
    spilled_cache: float = 0.0
    cached: bool = False

    def __post_init__(self) -> None:
        assert not self.reserved or self.devices <= self.reserved, "a group uses what is set aside"

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

    @property
    def systems(self) -> float:
        """How many systems' worth of links it has to itself; a fraction for a part of one."""
        return self.reserved / self.system.devices if self.reserved else float(self.count)


@dataclass(frozen=True, slots=True)
class Work:
    """What is timed: one role of one layer.

    Attributes:
        bill: Its costs.
        launches: Kernels that a serving engine starts.
        width: Activation elements that it hands on for one token.
        kv_heads: Heads its cache can be split over; 0 without a cache.
        nodes: Kind and number of the nodes that an interpreting engine starts. Exporters write the same work
            with more or fewer of them, so it is no part of what makes two pieces of work equal.
    """

    role: Role
    bill: Bill
    launches: int
    width: int
    kv_heads: int
    nodes: tuple[tuple[str, int], ...] = field(default=(), compare=False, repr=False)


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
    bandwidth = _memory(group).bandwidth.si * device.efficiency.em[kind].value
    sharpness = device.efficiency.p.value
    compute, memory = np.asarray(flops / rate), np.asarray(moved / bandwidth)
    larger = np.maximum(np.maximum(compute, memory), 1e-18)
    roof = larger * ((compute / larger) ** sharpness + (memory / larger) ** sharpness) ** (1 / sharpness)
    fixed = device.layer_latency.si if device.layer_latency and work.role in WHOLE_BLOCKS else 0.0
    latency = np.asarray(work.launches * device.efficiency.t0.si + _nodes_s(work, device) + fixed)
    collective = _collective(work, group, point, formats)
    return Times(compute, memory, latency, collective, roof + latency + collective)


def in_cache(group: Group, resident_bytes: float) -> Group:
    """The group, marked if the caches of one replica's devices together hold all weights."""
    cache = group.device.cache
    if cache is None or resident_bytes > cache.capacity.si * group.tp * group.pp:
        return group
    return replace(group, cached=True)


def _memory(group: Group) -> Memory:
    """What a step streams from."""
    cache = group.device.cache
    return cache if group.cached and cache is not None else group.device.main


def _nodes_s(work: Work, device: Device) -> float:
    """Fixed seconds of the nodes of a piece of work, on an engine that starts them one by one."""
    each = device.efficiency.node
    return sum(count * each[kind].si for kind, count in work.nodes if kind in each)


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
    slow = _slowdown(group)
    if work.bill.routing is not None:
        whole = work.bill.amounts(point, formats)
        spread = whole.flops / group.ep
        experts = whole.expert_bytes * (1 + group.spilled_experts * slow)
        return spread, whole.weight_bytes / group.tp + (experts + whole.activation_bytes) / group.ep
    share = Point(requests_per_replica(group, point["batch"]), point.new, point.cached)
    mine = work.bill.amounts(share, formats)
    kept = (mine.state_read_bytes + mine.state_write_bytes) / cache_split(work, group)
    kept = kept * (1 + group.spilled_cache * slow)
    return mine.flops / group.tp, mine.weight_bytes / group.tp + mine.activation_bytes / group.tp + kept


def _slowdown(group: Group) -> float:
    """How many bytes of main memory a byte of the next slower one takes as long as, less the byte itself."""
    slower = group.device.slower
    return 0.0 if slower is None else group.device.main.bandwidth.si / slower.bandwidth.si - 1


def _collective(work: Work, group: Group, point: Point, formats: Formats) -> Array:
    """Seconds of the exchange that ends this work within its group (``collectives``).

    Experts on other devices are sent their tokens and send them back; partial sums are reduced.
    """
    element = format_bits(formats.activations, work.bill.activation_bits) / 8
    tokens = np.asarray(point["batch"] * point["new"])
    if work.bill.routing is not None and group.dp > 1:
        copies = min(work.bill.routing.chosen, group.ep)
        span = Span(group.system, group.ep)
        return 2 * all_to_all_s(span, tokens / group.ep, copies, work.width * element)
    reduced = work.role in REDUCED or work.bill.routing is not None
    if not reduced or group.tp == 1:
        return np.zeros_like(tokens)
    mine = requests_per_replica(group, point["batch"]) * point["new"] * work.width * element
    return all_reduce_s(Span(group.system, group.tp), mine)


__all__ = [
    "Group",
    "Times",
    "Work",
    "cache_split",
    "compute_format",
    "in_cache",
    "per_device",
    "requests_per_replica",
    "work_time",
]
