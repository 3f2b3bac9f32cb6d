"""What a million tokens cost on a machine that is never idle: the floor that no plan goes below.

Step-3's way of choosing machines (arXiv 2507.19427, section 4.2): arithmetic and memory traffic at
peak rates, charged by the hour; attention pays for the dearer of the two, everything else for its
arithmetic, because batches can grow until weights cost nothing. What the cheapest machine for
attention and the cheapest for feed-forward are is a property of the model, before any plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from disaggc.errors import TargetError
from disaggc.targets import System

HOUR_S = 3600.0
MILLION = 1e6
RATES = ("fp8", "bf16")
"""Arithmetic that is charged unless somebody asks for another."""


@dataclass(frozen=True, slots=True)
class Hourly:
    """A machine as money sees it.

    Attributes:
        usd_per_h: To run one device for an hour.
        flops_per_s: Peak dense rate of the arithmetic that is charged.
        bytes_per_s: Peak memory bandwidth.
    """

    usd_per_h: float
    flops_per_s: float
    bytes_per_s: float

    @classmethod
    def of(cls, system: System, rates: tuple[str, ...] = RATES) -> Hourly:
        """One device of a system.

        Args:
            system: Which.
            rates: Arithmetic that is charged, the first that it has.

        Raises:
            TargetError: Nobody says what the system costs, or how fast it computes.
        """
        if system.usd_per_h is None:
            raise TargetError(
                f"No price an hour is declared for '{system.name}'. Add usd_per_h in targets/systems."
            )
        rate = next((system.device.rate(name) for name in rates if name in system.device.compute), None)
        if rate is None:
            raise TargetError(f"'{system.name}' declares no rate in {' or '.join(rates)}.")
        each = system.usd_per_h.si / system.devices
        return cls(each, rate.si, system.device.main.bandwidth.si)

    @property
    def usd_per_flop(self) -> float:
        """Of arithmetic at peak."""
        return self.usd_per_h / HOUR_S / self.flops_per_s

    @property
    def usd_per_byte(self) -> float:
        """Of memory traffic at peak."""
        return self.usd_per_h / HOUR_S / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class TokenWork:
    """What one decoded token takes.

    Attributes:
        core_flops, cache_bytes: Core attention over the context.
        linear_flops: Projections into and out of attention.
        ffn_flops: Feed-forward: experts, shared expert and router, or the dense one.
    """

    core_flops: float
    cache_bytes: float
    linear_flops: float
    ffn_flops: float

    def attention_usd(self, on: Hourly) -> float:
        """US dollars per million tokens for attention with its projections."""
        core = max(self.core_flops * on.usd_per_flop, self.cache_bytes * on.usd_per_byte)
        return MILLION * (core + self.linear_flops * on.usd_per_flop)

    def ffn_usd(self, on: Hourly) -> float:
        """US dollars per million tokens for feed-forward."""
        return MILLION * self.ffn_flops * on.usd_per_flop


def cheapest(work: TokenWork, machines: Mapping[str, Hourly]) -> tuple[str, str]:
    """The machines that attention and feed-forward cost least on; the first of equals."""
    return (
        min(machines, key=lambda name: work.attention_usd(machines[name])),
        min(machines, key=lambda name: work.ffn_usd(machines[name])),
    )
