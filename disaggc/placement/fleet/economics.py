"""What a mix earns and takes: dollars per token in and out, memory freed for caches, break-even prices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from disaggc.placement.blueprint import pools
from disaggc.placement.fleet.columns import Book, Column
from disaggc.placement.fleet.deploy import Deployment
from disaggc.placement.fleet.master import Market, Master, Worth
from disaggc.placement.fleet.timetable import Timetable

MTOK_PER_H = 3600 / 1e6
"""Million tokens an hour of one token a second."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Dollars an hour that a tier takes, by what they are spent on."""

    prefill: float
    decode: float


def spent_on(
    market: Market,
    replicas: Sequence[int],
    systems: Sequence[int],
    tier: int,
    prefill_shares: Sequence[float],
) -> Spent | None:
    """What a tier's replicas take of the systems that are used, shared by the devices that they set aside.

    Args:
        market: Columns and fleet.
        replicas: Of each column.
        systems: Used, by fleet index.
        tier: Whose.
        prefill_shares: For each column, the share of its devices' time that prefill takes.

    Returns:
        The dollars; None where a price is missing.
    """
    prefill = decode = 0.0
    for (system, _), used in zip(market.fleet, systems, strict=True):
        aside = [n * dict(c.uses).get(system.name, 0) for c, n in zip(market.columns, replicas, strict=True)]
        if not used or not sum(aside):
            continue
        if system.usd_per_h is None:
            return None
        each = system.usd_per_h.si * used / sum(aside)
        for column, devices, share in zip(market.columns, aside, prefill_shares, strict=True):
            if column.tier == tier:
                prefill += each * devices * share
                decode += each * devices * (1 - share)
    return Spent(prefill, decode)


def prefill_share(table: Timetable, column: Column) -> float:
    """The share of a column's time that prefill takes at its full rate."""
    if column.form != "whole":
        return float(column.form == "prefill")
    busy = table.sheet(column.groups[0], column.tier).prefill_busy_s * column.requests_per_s
    return min(1.0, busy)


@dataclass(frozen=True, slots=True)
class Payback:
    """What a system adds to a tier when the whole fleet serves it, and the price at which that pays.

    Attributes:
        added_tokens_per_s: With all of it against none.
        usd_per_mtok: Of output tokens; None if it adds nothing or has no price.
    """

    system: str
    count: int
    tier: str
    added_tokens_per_s: float
    usd_per_mtok: float | None


def paybacks(market: Market) -> Iterator[Payback]:
    """For each system and each tier that any pattern serves."""
    for tier, demand in enumerate(market.tiers):
        with_all = _most(market, tier, None)
        for system, count in market.fleet:
            added = (
                (with_all - _most(market, tier, system.name)) * demand.tokens_per_request if with_all else 0.0
            )
            pays = system.usd_per_h is not None and added > 1e-6 * with_all * demand.tokens_per_request
            price = system.usd_per_h.si * count / (added * MTOK_PER_H) if pays and system.usd_per_h else None
            if with_all:
                yield Payback(system.name, count, demand.name, max(0.0, added), price)


def _most(market: Market, tier: int, without: str | None) -> float:
    """Requests per second of one tier with the fleet to itself, but for one system."""
    columns = tuple(
        replace(c, tier=0) for c in market.columns if c.tier == tier and without not in dict(c.uses)
    )
    if not columns:
        return 0.0
    demand = replace(market.tiers[tier], requests_per_s=None)
    alone = Market(columns, (demand,), market.fleet)
    found = Master(alone).best(Worth((1.0,)))
    return found.value if found is not None else 0.0


def freed_bytes(table: Timetable, book: Book, deployed: Deployment, replicas: int) -> float:
    """Bytes that weights leave free where caches are, beyond what the best colocated pattern leaves there.

    The colocated pattern is the tier's best one on the same system; weights are compared device by device.
    """
    column = deployed.column
    home = column.groups[0]
    modes = (f"colocated on {home.system.name}", f"decode on {home.system.name}")
    best = [book.tally(column.tier, mode).best for mode in modes]
    known = [c for c in best if c is not None and not c.speculative]
    if not known:
        return 0.0
    most = max(known, key=lambda c: c.requests_per_s / c.devices)
    colocated = float(table.sheet(most.groups[0], column.tier).standing.weights.sum())
    mine = pools(deployed.decision)[0].memory.weights
    return (colocated - mine) * home.devices * replicas
