"""What a plan earns and costs: from its own prediction and the declared price of its machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from disaggc.plans import Plan, Pool


@dataclass(frozen=True, slots=True)
class Hourly:
    """What one system costs an hour, US dollars; low and high are the ends of its interval."""

    usd: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Economics:
    """US dollars of one plan at full load; None where nobody says what a machine costs.

    Attributes:
        megawatts: Power of the systems that it uses.
        revenue_per_h: Of output tokens, conservative.
        cost_per_h: Of the systems that it uses.
        cost_per_mtok: Of a million output tokens, with the ends of the machines' interval.
    """

    megawatts: float | None
    revenue_per_h: float | None
    cost_per_h: Hourly | None
    cost_per_mtok: Hourly | None

    @property
    def margin_per_h(self) -> float | None:
        """What is left of the revenue."""
        if self.revenue_per_h is None or self.cost_per_h is None:
            return None
        return self.revenue_per_h - self.cost_per_h.usd


def systems_used(pools: Sequence[Pool], devices: Mapping[str, int]) -> dict[str, float]:
    """How many systems of each kind a plan takes: whole ones, or the devices that a fleet sets aside.

    Args:
        pools: Of the plan.
        devices: Of one system of each kind.
    """
    found: dict[str, float] = {}
    for pool in pools:
        each = devices.get(pool.system, pool.available)
        found[pool.system] = found.get(pool.system, 0.0) + pool.available / each
    return found


def economics(plan: Plan, prices: Mapping[str, Hourly], devices: Mapping[str, int]) -> Economics:
    """What a plan earns and costs.

    Args:
        plan: The plan.
        prices: Of one system of each kind, where somebody says.
        devices: Of one system of each kind.
    """
    p = plan.prediction
    rate = p.tokens_per_s.conservative
    used = systems_used(plan.pools, devices)
    cost = None
    if all(name in prices for name in used):
        cost = Hourly(
            *(
                sum(n * ends for n, ends in zip(used.values(), each, strict=True))
                for each in zip(*(_ends(prices[name]) for name in used), strict=True)
            )
        )
    return Economics(
        megawatts=rate / p.tokens_per_s_per_mw if p.tokens_per_s_per_mw else None,
        revenue_per_h=p.revenue_usd_per_h,
        cost_per_h=cost,
        cost_per_mtok=None if cost is None else Hourly(*(usd / (rate * 3600) * 1e6 for usd in _ends(cost))),
    )


def _ends(hourly: Hourly) -> tuple[float, float, float]:
    return hourly.usd, hourly.low, hourly.high
