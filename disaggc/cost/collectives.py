"""Time of exchanges among the devices of a group: alpha + bytes / bandwidth, for each link that is crossed.

A group wider than a scale-up domain spans D = ceil(devices / domain) of them, evenly. Inside a domain a
device has its scale-up port, out of it its share of the system's scale-out link: bandwidth / devices of a
system. Both algorithms are hierarchical and use one link after the other, which is conservative where an
engine drives both at once.

All-to-all of tokens with their experts, one way, T tokens of x bytes a device, k copies each (b h K / tp of
MegaScale-Infer, arXiv 2504.02263, eq. 6):

    scale-out: T x (D - 1) (1 - (1 - 1/D)^k)      scale-up: T x k

A token crosses once to each other domain that holds any of its experts, picked uniformly and independently,
and is copied to them there, as DeepEP's two-stage kernels do; the way back is the same, partial sums added up
before they cross. (Kernels that send each copy by itself, as DeepEP's for low latency do, cross more often.)

All-reduce of S bytes that each device holds, n = devices / D (a ring's 2 (n - 1)/n, Thakur et al. 2005;
reduce-scatter and all-gather within, all-reduce across: BlueConnect, Cho et al., SysML 2019):

    scale-out: 2 (D - 1)/D S/n                    scale-up: 2 (n - 1)/n S

With D = 1 nothing crosses the scale-out link.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from disaggc.cost.bill import Array
from disaggc.targets import System


@dataclass(frozen=True, slots=True)
class Span:
    """Devices of one kind of system that exchange with each other."""

    system: System
    devices: int

    @property
    def domains(self) -> int:
        """Scale-up domains that they are spread over."""
        return math.ceil(self.devices / self.system.domain)

    @property
    def inside(self) -> float:
        """Devices in one of these domains."""
        return self.devices / self.domains

    @property
    def out_bytes_per_s(self) -> float:
        """A device's share of the link out of its system, one way."""
        return self.system.scale_out.bandwidth_one_way.si / self.system.devices

    def fixed_s(self, hops: int) -> float:
        """A launch and ``hops`` within a domain and, where there are several, as many between domains.

        A device's layer latency, where it is declared, holds the launch and the hops within.
        """
        device, within = self.system.device, 0.0
        if device.layer_latency is None:
            reach = math.ceil(self.inside)
            within = device.efficiency.t0.si + hops * self.system.hop_latency(reach).si
        return within + (hops * self.system.scale_out.latency.si if self.domains > 1 else 0.0)


def all_to_all_s(span: Span, tokens: Array, copies: int, token_bytes: float) -> Array:
    """Seconds until the tokens are with their experts, one way.

    Args:
        span: The devices, all of which hold experts.
        tokens: How many each device sends.
        copies: Devices that each goes to.
        token_bytes: Bytes of one.
    """
    domains = span.domains
    crossings = (domains - 1) * (1 - (1 - 1 / domains) ** copies)
    within = tokens * copies * token_bytes / span.system.scale_up.bandwidth_one_way.si
    return span.fixed_s(1) + within + tokens * crossings * token_bytes / span.out_bytes_per_s


def all_reduce_s(span: Span, held: Array) -> Array:
    """Seconds until each device has the sum of the ``held`` bytes of all."""
    inside, domains = span.inside, span.domains
    within = 2 * (inside - 1) / inside * held
    across = 2 * (domains - 1) / domains * held / inside
    up = span.system.scale_up.bandwidth_one_way.si
    return span.fixed_s(2) + within / up + across / span.out_bytes_per_s
