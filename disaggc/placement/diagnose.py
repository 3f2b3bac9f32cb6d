"""Why a mode has no plan, with the margin, and what would give it one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from disaggc.cost import AS_STORED, format_bits
from disaggc.ir import Phase
from disaggc.placement.modes import Mode, holds, serving_format
from disaggc.placement.pieces import Piece
from disaggc.placement.pricing import PICO, RESERVE, STEP_OVERHEAD_S, Limits
from disaggc.placement.search import Answer, Request, price, search
from disaggc.targets import System

ANY = Mode("any mode")


def diagnose(request: Request, mode: Mode) -> str:
    """The first of formats, memory, speed and time to first token that rules a mode out, with numbers."""
    return _formats(request, mode) or _memory(request, mode) or _demands(request, mode)


def relaxations(request: Request) -> list[str]:
    """Single changes of the tier that make some plan possible, each with the value that works."""
    return [*_relaxed_demands(request, ANY), *_relaxed_context(request)]


def _formats(request: Request, mode: Mode) -> str:
    """A device that cannot hold the weights it would have to."""
    for system, _ in request.fleet:
        for piece, _ in _forced(request, mode, system):
            if not holds(system.device, piece, request.formats):
                asked = request.formats.weights
                served = "stored as they are" if asked == AS_STORED else f"in {serving_format(request.formats)}"
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
        weights = sum(p.count * p.work.bill.resident_bytes(request.formats) for p in _unique(forced))
        caches = sum(_cache(request, piece) for piece, phase in forced if phase is Phase.DECODE)
        offered = system.capacity_bytes * count * (1 - RESERVE)
        if weights + caches > offered:
            return (
                f"weights of {_gb(weights)} and caches of {_gb(caches)} for one request of "
                f"{request.load.context_tokens:,} tokens need {_gb(weights + caches)}; "
                f"{count} x {system.name} offers {_gb(offered)}: {_gb(weights + caches - offered)} short"
            )
    return ""


def _unique(forced: list[tuple[Piece, Phase]]) -> list[Piece]:
    """Pieces, once each even where both phases are forced: they share weights."""
    return list({piece.key: piece for piece, _ in forced}.values())


def _cache(request: Request, piece: Piece) -> float:
    """Bytes of a request's cache in a piece, all layers."""
    element = format_bits(request.formats.kv, request.pieces.state_bits) / 8
    kept = piece.kv_elements * request.load.context_tokens + piece.fixed_state
    return piece.count * kept * element


def _demands(request: Request, mode: Mode) -> str:
    """What the fastest plan for a single request comes to."""
    fastest = _fastest(request, mode, Limits(None, None))
    if fastest is None:
        return "weights, caches and activations together do not fit its devices, however they are split"
    told = [
        f"its fastest plan takes {_tpot(fastest) * 1e6:,.0f} us a token ({1 / _tpot(fastest):,.0f} tokens/s/user)"
    ]
    limits = request.limits
    if limits.tpot_s is not None and _tpot(fastest) > limits.tpot_s:
        told.append(f"the tier asks for {1 / limits.tpot_s:,.0f}: {1 - limits.tpot_s / _tpot(fastest):.0%} too slow")
        return "; ".join(told)
    ttft = price(fastest, overlapped=False)["ttft"] / PICO
    asked = "no" if limits.ttft_s is None else f"{limits.ttft_s * 1e3:,.0f} ms"
    return f"{told[0]} with a first token after {ttft * 1e3:,.0f} ms; the tier asks for {asked} at most, with its speed"


def _relaxed_demands(request: Request, mode: Mode) -> Iterator[str]:
    limits = request.limits
    slower = _fastest(request, mode, replace(limits, tpot_s=None))
    if slower is not None and limits.tpot_s is not None and _tpot(slower) > limits.tpot_s:
        yield (
            f"tokens_per_s_per_user = {int(1 / _tpot(slower)):,} or less "
            f"(asked: {1 / limits.tpot_s:,.0f})"
        )
    later = _fastest(request, mode, replace(limits, ttft_s=None))
    if later is not None and limits.ttft_s is not None:
        ttft = price(later, overlapped=False)["ttft"] / PICO
        if ttft > limits.ttft_s:
            yield f"ttft_ms = {ttft * 1e3 + 1:,.0f} or more (asked: {limits.ttft_s * 1e3:,.0f})"


def _relaxed_context(request: Request) -> Iterator[str]:
    """The longest context that fits, if a shorter one alone helps."""
    shortest = request.load.output_tokens + 1
    if _with_context(request, shortest) is None:
        return
    low, high = shortest, request.load.context_tokens
    while high - low > max(1, high // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if _with_context(request, middle) is not None else (low, middle)
    yield f"context_tokens = {low:,} or less, prompts shortened to match (asked: {request.load.context_tokens:,})"


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


def _fastest(request: Request, mode: Mode, limits: Limits) -> Answer | None:
    """The plan of least TPOT for a single request in flight."""
    alone = replace(request, limits=limits, batches=(1,), micro_batches=(1,))
    return search(alone, mode).answer


def _tpot(answer: Answer) -> float:
    return answer.objective / PICO + STEP_OVERHEAD_S


def _gb(value: float) -> str:
    """Bytes for people."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value / 1e3:,.1f} kB"
