"""Patterns on one group of devices: prefill and decode together, decode alone, prefill alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from disaggc.cost import Array, Group, format_bits
from disaggc.placement.fleet.columns import Book, Column, Tally
from disaggc.placement.fleet.demand import Demand, Wanted
from disaggc.placement.fleet.queueing import paced, utilisation_for
from disaggc.placement.fleet.timetable import Sheet, Timetable, requests_grid
from disaggc.placement.formulation import step_overhead_s
from disaggc.placement.pricing import Limits, Load, link_between
from disaggc.targets import System

MICRO_BATCHES = (1, 2, 3, 4)
"""From one micro-batch to four (MegaScale-Infer: gains beyond four are marginal)."""
DEEP_MICRO_BATCHES = (*MICRO_BATCHES, 8, 16, 32)
"""In a pipeline, whose stages want a micro-batch each."""
MOST_REQUESTS = 24_576
"""In one micro-batch."""


def price_whole(book: Book, wanted: Wanted, table: Timetable, tier: int, group: Group) -> None:
    """Add what ``group`` serves of a tier by itself, and what it decodes of prompts computed elsewhere."""
    demand, sheet = wanted.tiers[tier], table.sheet(group, tier)
    if not _holds_one(book, sheet, tier):
        return
    requests = np.array(requests_grid(MOST_REQUESTS // group.dp), dtype=np.float64)[:, None]
    flying = np.array(DEEP_MICRO_BATCHES if group.pp > 1 else MICRO_BATCHES, dtype=np.float64)
    at = np.searchsorted(table.batches, requests[:, 0] * group.dp)
    path = sheet.decode.sum(axis=0)[at][:, None]
    busy = sheet.busy.sum(axis=0)[at][:, None] * flying
    needed = decode_bytes(sheet, requests, flying)
    system = group.system.name
    for form, mode in (("decode", f"decode on {system}"), ("whole", f"colocated on {system}")):
        tally = book.tally(tier, mode)
        tally.considered += needed.size
        prompts = prompt_cache_bytes(sheet) if form == "whole" else 0.0
        room = _room(tally, sheet, needed + prompts, requests, flying)
        step = _steps(form, demand, sheet, path, busy, requests * flying * group.dp)
        rates = _rates(demand.load, room, step, requests * flying * group.dp, demand.limits)
        overhead = step_overhead_s((group,))
        _note(tally, room, np.maximum(path, busy) + overhead, demand.load)
        if form == "decode":
            rates = np.minimum(rates, taking_in(wanted, tier, group))
        if rates.max() > 0:
            book.offer(_column(tier, form, mode, group, rates, step, requests, flying))


def _holds_one(book: Book, sheet: Sheet, tier: int) -> bool:
    """Whether a shape holds its weights and one request a replica; else what it lacks is noted."""
    one, system = np.ones((1, 1)), sheet.group.system.name
    needed = float(decode_bytes(sheet, one, one[0])[0, 0])
    for mode, prompt in ((f"decode on {system}", 0.0), (f"colocated on {system}", prompt_cache_bytes(sheet))):
        tally = book.tally(tier, mode)
        tally.considered += int(needed > sheet.usable)
        if needed + prompt > sheet.usable:
            tally.lacks((needed + prompt) * sheet.group.devices, sheet.usable * sheet.group.devices)
    return needed <= sheet.usable


def _steps(form: str, demand: Demand, sheet: Sheet, path: Array, busy: Array, in_flight: Array) -> Array:
    """(request, micro-batch): seconds of a decode step; with prompts, such that they start in time."""
    overhead = step_overhead_s((sheet.group,))
    if form == "decode":
        return np.maximum(path, busy) + overhead
    prompts = in_flight / demand.load.steps * sheet.prefill_busy_s
    least = np.maximum(path, busy + prompts) + overhead
    first = demand.limits.ttft_s or np.inf
    return paced(float(sheet.prefill.sum()), least, busy + overhead, prompts, first)


def decode_bytes(sheet: Sheet, requests: Array, flying: Array) -> Array:
    """(request, micro-batch): bytes on one device for decoding alone."""
    held = sheet.standing.weights.sum() + sheet.cache.sum() * requests * flying
    return np.asarray(held + sheet.transient_bytes(requests * flying))


def prompt_cache_bytes(sheet: Sheet) -> float:
    """Bytes on one device of the cache of a prompt that is being computed."""
    return sum(sheet.pricing.prompt_cache_bytes(p, 0) for p in sheet.pieces if p.has_state)


def _room(tally: Tally, sheet: Sheet, needed: Array, requests: Array, flying: Array) -> Array:
    """(request, micro-batch): whether it fits main and slower memory."""
    fits = needed <= sheet.usable
    if sheet.pricing.spills(0):
        slow = sheet.standing.slow_weights.sum() + sheet.slow_cache.sum() * requests * flying
        fits &= slow <= sheet.pricing.usable_slower_bytes(0)
    tally.fits += int(fits.sum())
    return np.asarray(fits)


def _note(tally: Tally, room: Array, busiest: Array, load: Load) -> None:
    if room[0, 0]:
        token_s = float(busiest[0, 0]) / load.accepted
        tally.fastest_token_s = min(tally.fastest_token_s, token_s)


def _rates(load: Load, room: Array, step: Array, in_flight: Array, limits: Limits) -> Array:
    """(request, micro-batch): requests per second; 0 where it does not fit or is too slow."""
    good = room & np.isfinite(step) & (step <= (limits.tpot_s or np.inf))
    return np.where(good, in_flight / (np.where(good, step, 1.0) * load.steps), 0.0)


def _column(
    tier: int, form: str, mode: str, group: Group, rates: Array, step: Array, requests: Array, flying: Array
) -> Column:
    r, m = np.unravel_index(int(rates.argmax()), rates.shape)
    return Column(
        tier,
        form,
        mode,
        group.system.name,
        ((group.system.name, group.reserved),),
        float(rates[r, m]),
        (group,),
        batch=int(requests[r, 0]) * group.dp,
        micro_batches=int(flying[m]),
        step_s=float(step[r, m]),
    )


# prefill ---------------------------------------------------------------------------------------


def price_prefill(
    book: Book, wanted: Wanted, table: Timetable, tier: int, group: Group, homes: Iterable[System]
) -> None:
    """Add what ``group`` computes of a tier's prompts for decode on each of ``homes``."""
    demand, sheet = wanted.tiers[tier], table.sheet(group, tier)
    needed = float(sheet.standing.weights.sum() + sheet.transient_bytes(np.asarray(1.0)))
    needed += prompt_cache_bytes(sheet)
    for home in homes:
        tally = book.tally(tier, f"prefill on {group.system.name} for decode on {home.name}")
        tally.considered += 1
        slow = float(sheet.standing.slow_weights.sum())
        if needed > sheet.usable or slow > sheet.pricing.usable_slower_bytes(0):
            tally.lacks(needed * group.devices, sheet.usable * group.devices)
            continue
        tally.fits += 1
        prompt_s, busy_s = float(sheet.prefill.sum()), sheet.prefill_busy_s
        over_s = handover_s(wanted, tier, group, home)
        tally.least_ttft_s = min(tally.least_ttft_s, prompt_s + over_s)
        spare = np.asarray((demand.limits.ttft_s or np.inf) - prompt_s - over_s)
        busy = float(utilisation_for(np.asarray(prompt_s), np.minimum(spare, 1e9)))
        rate = min(busy / busy_s, taking_in(wanted, tier, group))
        if rate > 0:
            ttft = prompt_s + over_s + prompt_s * busy / (2 * (1 - busy))
            uses = ((group.system.name, group.reserved),)
            book.offer(
                Column(tier, "prefill", _mode(group, home), home.name, uses, rate, (group,), ttft_s=ttft)
            )


def _mode(group: Group, home: System) -> str:
    return f"prefill on {group.system.name} for decode on {home.name}"


def handover_s(wanted: Wanted, tier: int, group: Group, home: System) -> float:
    """Seconds for a prompt's cached prefix to reach prefill, and its new cache to reach decode.

    One prompt is computed by one replica, whose share of the links carries it; the far end is a whole system.
    """
    there, back = handed_bytes(wanted, wanted.tiers[tier].load)
    whole = Group(home, 1, 1, 1, 1)
    latency, bytes_per_s = link_between(group, whole)
    return sum(latency + payload / bytes_per_s for payload in (there, back) if payload)


def handed_bytes(wanted: Wanted, load: Load) -> tuple[float, float]:
    """Bytes of cache of one request from prefill to decode, and of its prefix from decode to prefill."""
    element = format_bits(wanted.formats.kv, wanted.pieces.state_bits) / 8
    grown = wanted.pieces.kv_elements * element
    fixed = sum(p.fixed_state * p.count for p in wanted.pieces.pieces) * element
    there = grown * load.input_tokens + fixed if load.input_tokens else 0.0
    return there, grown * load.cached_tokens + fixed if load.cached_tokens else 0.0


def taking_in(wanted: Wanted, tier: int, group: Group) -> float:
    """Requests per second whose caches a group's own links can carry, the busier direction."""
    most = max(handed_bytes(wanted, wanted.tiers[tier].load))
    bytes_per_s = group.system.scale_out.bandwidth_one_way.si * group.systems
    return bytes_per_s / most if most else math.inf
