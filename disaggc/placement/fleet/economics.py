"""What a mix earns and takes: dollars per token in and out, memory freed for caches, break-even prices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from disaggc.placement.blueprint import pools
from disaggc.placement.fleet.columns import Book, Column
from disaggc.placement.fleet.demand import Demand
from disaggc.placement.fleet.deploy import Deployment
from disaggc.placement.fleet.master import Market, Master, Optimum, Worth
from disaggc.placement.fleet.timetable import Timetable
from disaggc.targets import System

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
        best = _most(market, tier, None)
        if best is not None:
            for k, (system, count) in enumerate(market.fleet):
                rest = _most(market, tier, system.name) if best.mix.systems[k] else best
                added = best.value - (rest.value if rest is not None else 0.0)
                yield _payback(system, count, demand, added if added > NOTHING * best.value else 0.0)


ROUGHLY = 1e-3
"""Relative gap of the rates that break-even prices are made of: they are planning figures."""
NOTHING = 2 * ROUGHLY
"""Share of a tier's rate that counts as nothing added."""


def _payback(system: System, count: int, demand: Demand, added: float) -> Payback:
    tokens, usd = added * demand.tokens_per_request, system.usd_per_h
    price = usd.si * count / (tokens * MTOK_PER_H) if tokens and usd is not None else None
    return Payback(system.name, count, demand.name, tokens, price)


def _most(market: Market, tier: int, without: str | None) -> Optimum | None:
    """The most of one tier with the fleet to itself, but for one system; None if nothing."""
    columns = tuple(
        replace(c, tier=0) for c in market.columns if c.tier == tier and without not in dict(c.uses)
    )
    demand = replace(market.tiers[tier], requests_per_s=None)
    worth = Worth((1.0,), (-1e-9,) * len(market.fleet))
    found = Master(Market(columns, (demand,), market.fleet)).best(worth, ROUGHLY) if columns else None
    return found if found is not None and found.value > 0 else None


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
