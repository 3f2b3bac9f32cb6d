"""In words: what a mode can do for a tier, or what rules it out and by what margin."""

from __future__ import annotations

import math

from disaggc.placement.diagnose import gigabytes
from disaggc.placement.fleet.columns import Column, Tally
from disaggc.placement.fleet.demand import Demand
from disaggc.targets import System


def reason_of(tally: Tally, demand: Demand) -> str:
    """Why a mode has no pattern that meets a tier, the first that rules it out; or its best pattern."""
    if tally.unfit:
        return tally.unfit
    if tally.best is not None:
        return _best(tally.best, demand)
    if tally.beaten_requests_per_s:
        tokens = tally.beaten_requests_per_s * demand.tokens_per_request
        return (
            f"could serve {tokens:,.0f} tokens/s at most, which its attention machines serve alone or with "
            f"fewer others"
        )
    if not tally.fits:
        lacks = gigabytes(tally.short_bytes)
        return (
            f"weights and one request's cache need {gigabytes(tally.needed_bytes)} of devices that offer "
            f"{gigabytes(tally.usable_bytes)}: {lacks} short"
        )
    asked, fastest = demand.tokens_per_s_per_user, 1 / tally.fastest_token_s
    if math.isfinite(tally.fastest_token_s) and fastest < asked:
        return (
            f"its fastest pattern takes {tally.fastest_token_s * 1e6:,.0f} us a token "
            f"({fastest:,.0f} tokens/s/user); the tier asks for {asked:,.0f}: "
            f"{1 - fastest / asked:.0%} too slow"
        )
    asked_ms = (demand.limits.ttft_s or math.inf) * 1e3
    if math.isfinite(tally.least_ttft_s):
        least = f"{tally.least_ttft_s * 1e3:,.0f} ms"
        return f"a first token takes {least} without a queue; the tier asks for {asked_ms:,.0f}"
    return f"no pattern meets {asked:,.0f} tokens/s/user and a first token in {asked_ms:,.0f} ms at once"


def _best(column: Column, demand: Demand) -> str:
    rate = column.requests_per_s
    where = " + ".join(f"{n} of {name}" for name, n in column.uses)
    if column.form == "prefill":
        return f"{where}: {rate:,.4g} prompts/s with a first token in {column.ttft_s * 1e3:,.0f} ms"
    flying = f"{column.micro_batches} x {column.batch:,} requests"
    load = demand.drafted if column.speculative and demand.drafted is not None else demand.load
    speed = load.accepted / column.step_s
    return (
        f"{where}: {rate * demand.tokens_per_request:,.0f} tokens/s, {flying} at {speed:,.0f} tokens/s/user"
    )


def watts(column: Column, systems: dict[str, System]) -> float:
    """Power of the devices that a replica sets aside, each its share of its system's."""
    return sum(systems[name].power.si * n / systems[name].devices for name, n in column.uses)
