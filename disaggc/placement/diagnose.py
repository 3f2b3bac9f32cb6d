"""Why a mode has no plan, with the margin, and what would give it one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from disaggc.cost import AS_STORED, format_bits
from disaggc.ir import Phase
from disaggc.placement.formulation import PICO, step_overhead_s
from disaggc.placement.modes import ANY, Mode, holds, serving_format
from disaggc.placement.pieces import Piece
from disaggc.placement.pricing import RESERVE, Limits
from disaggc.placement.search import Answer, Request, price, search
from disaggc.targets import System

MORE_SYSTEMS = 4
"""How many more of a system are tried as a cure."""


def diagnose(request: Request, mode: Mode) -> str:
    """The first of formats, memory, speed and time to first token that rules a mode out, with numbers."""
    return _formats(request, mode) or _memory(request, mode) or _demands(request, mode)


def relaxations(request: Request) -> list[str]:
    """Single changes of the job that make some plan possible, each with the value that works."""
    return [
        *_relaxed_demands(request, ANY),
        *_relaxed_context(request),
        *_relaxed_search(request),
        *_relaxed_fleet(request),
    ]


def _formats(request: Request, mode: Mode) -> str:
    """A device that cannot hold the weights it would have to."""
    for system, _ in request.fleet:
        for piece, _ in _forced(request, mode, system):
            if not holds(system.device, piece, request.formats):
                asked = request.formats.weights
                served = (
                    "stored as they are" if asked == AS_STORED else f"in {serving_format(request.formats)}"
                )
                held = ", ".join(system.device.formats)
                return (
                    f"{system.device.name} holds weights in {held}, and the job serves them {served}. "
                    f"Set weights = '{system.device.formats[0]}' in [model]"
                )
    return ""


def _forced(request: Request, mode: Mode, system: System) -> Iterator[tuple[Piece, Phase]]:
    """The pieces that a mode puts on a system, by phase."""
    for phase in Phase:
        for piece in request.pieces.pieces:
            if mode.wants(piece, phase) == system.name:
                yield piece, phase


def _memory(request: Request, mode: Mode) -> str:
    """A system whose memory cannot hold what the mode puts there, for a single request."""
    for system, count in request.fleet:
        forced = list(_forced(request, mode, system))
        weights = sum(p.count * p.resident_bytes(request.formats) for p in _unique(forced))
        caches = sum(_cache(request, piece) for piece, phase in forced if phase is Phase.DECODE)
        offered = system.capacity_bytes * count * (1 - RESERVE)
        if weights + caches > offered:
            return (
                f"weights of {gigabytes(weights)} and caches of {gigabytes(caches)} for one request of "
                f"{request.load.context_tokens:,} tokens need {gigabytes(weights + caches)}; "
                f"{count} x {system.name} offers {gigabytes(offered)}: "
                f"{gigabytes(weights + caches - offered)} short"
            )
    return ""


def _unique(forced: list[tuple[Piece, Phase]]) -> list[Piece]:
    """Pieces, once each even where both phases are forced: they share weights."""
    return list({piece.segments: piece for piece, _ in forced}.values())


def _cache(request: Request, piece: Piece) -> float:
    """Bytes of a request's cache in a piece, all layers."""
    element = format_bits(request.formats.kv, request.pieces.state_bits) / 8
    kept = piece.kv_elements * request.load.context_tokens + piece.fixed_state
    return piece.count * kept * element


def _demands(request: Request, mode: Mode) -> str:
    """What the fastest plan comes to, with the fewest requests in flight."""
    fastest = _fastest(request, mode, Limits(None, None))
    flying = min(request.batches) * min(request.micro_batches)
    crowd = f" with {flying:,} requests in flight, the least of [search]," if flying > 1 else ""
    if fastest is None:
        return f"weights, caches and activations{crowd} do not fit its devices, however they are split"
    speed = 1 / _tpot(fastest)
    told = (
        f"its fastest plan{crowd} takes {_tpot(fastest) * 1e6:,.0f} us a token ({speed:,.0f} tokens/s/user)"
    )
    limits = request.limits
    asked_s = _asked(request)
    if asked_s is not None and _tpot(fastest) > asked_s:
        margin = f"{1 - asked_s / _tpot(fastest):.0%} too slow"
        return f"{told}; the tier asks for {1 / asked_s:,.0f}: {margin}"
    ttft = price(fastest, overlapped=False)["ttft"] / PICO
    asked = "no" if limits.ttft_s is None else f"{limits.ttft_s * 1e3:,.0f} ms"
    return (
        f"{told} with a first token after {ttft * 1e3:,.0f} ms; "
        f"the tier asks for {asked} at most, with its speed"
    )


def _relaxed_demands(request: Request, mode: Mode) -> Iterator[str]:
    limits = request.limits
    slower = _fastest(request, mode, replace(limits, tpot_s=None))
    asked_s = _asked(request)
    if slower is not None and asked_s is not None and _tpot(slower) > asked_s:
        yield f"tokens_per_s_per_user = {int(1 / _tpot(slower)):_} or less (asked: {1 / asked_s:,.0f})"
    later = _fastest(request, mode, replace(limits, ttft_s=None))
    if later is not None and limits.ttft_s is not None:
        ttft = price(later, overlapped=False)["ttft"] / PICO
        if ttft > limits.ttft_s:
            yield f"ttft_ms = {ttft * 1e3 + 1:_.0f} or more (asked: {limits.ttft_s * 1e3:,.0f})"


def _relaxed_context(request: Request) -> Iterator[str]:
    """The longest context that fits, if a shorter one alone helps."""
    shortest = request.load.output_tokens + 1
    if _with_context(request, shortest) is None:
        return
    low, high = shortest, request.load.context_tokens
    while high - low > max(1, high // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if _with_context(request, middle) is not None else (low, middle)
    asked = f"asked: {request.load.context_tokens:,}"
    yield f"context_tokens = {low:_} or less, prompts shortened to match ({asked})"


def _with_context(request: Request, context: int) -> Answer | None:
    load = request.load
    share = max(1, context - load.output_tokens) / max(1, load.input_tokens + load.cached_tokens)
    shorter = replace(
        load,
        context_tokens=context,
        input_tokens=max(1, int(load.input_tokens * min(1.0, share))),
        cached_tokens=int(load.cached_tokens * min(1.0, share)),
    )
    return _fastest(replace(request, load=shorter), ANY, request.limits)


def _relaxed_search(request: Request) -> Iterator[str]:
    """The least batch, where [search] starts above it and that alone helps."""
    asked = min(request.batches), min(request.micro_batches)
    alone = replace(request, batches=(1,), micro_batches=(1,))
    if asked != (1, 1) and _fastest(alone, ANY, request.limits) is not None:
        yield f"[search] batch = [1], micro_batches = [1] (asked: {asked[0]:,} and {asked[1]} at least)"


def _relaxed_fleet(request: Request) -> Iterator[str]:
    """For each system the least number more of it that alone helps."""
    for i, (system, count) in enumerate(request.fleet):
        most = count + MORE_SYSTEMS
        if _with_count(request, i, most) is not None:
            more = next((n for n in range(count + 1, most) if _with_count(request, i, n)), most)
            yield f"{system.name} = {more} (asked: {count})"


def _with_count(request: Request, index: int, count: int) -> Answer | None:
    fleet = list(request.fleet)
    fleet[index] = (fleet[index][0], count)
    return _fastest(replace(request, fleet=tuple(fleet)), ANY, request.limits)


def _fastest(request: Request, mode: Mode, limits: Limits) -> Answer | None:
    """The plan of least TPOT for the fewest requests in flight that are searched."""
    batch, micro_batches = min(request.batches), min(request.micro_batches)
    few = replace(request, limits=limits, batches=(batch,), micro_batches=(micro_batches,))
    return search(few, mode).answer


def _tpot(answer: Answer) -> float:
    """Seconds per output token."""
    pricing = answer.configuration.pricing
    return (answer.objective / PICO + step_overhead_s(pricing.groups)) / pricing.load.accepted


def _asked(request: Request) -> float | None:
    """Seconds per output token that the tier asks for at most."""
    return None if request.limits.tpot_s is None else request.limits.tpot_s / request.load.accepted


def gigabytes(value: float) -> str:
    """Bytes for people."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value / 1e3:,.1f} kB"
