"""Into how many stages the LM head is cut, so that other micro-batches need not wait for all of it.

Where pools share the layers of a decode step, each micro-batch soon needs every pool again. A pool that
spends much longer on the head of one than on any other stage makes all of them wait, and with them the
other pools. Between two pieces of the head it can do a stage of somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from disaggc.ir import Phase, Role, Segment
from disaggc.placement.decide import Decision
from disaggc.placement.stages import Span, span_times

US = 1e6
MOST = 8
"""Pieces at most: twice as many gain 2 % by the clock, and each is a session of its own to be called."""
LEAST_US = 200.0
"""A piece takes this long at least. One more call of a session was measured at about 20 us in one process: a
tenth. (Between executors, with what else there is to a stage, it was 36 to 95.)"""
NEGLIGIBLE_US = 20.0
"""What comes before the head and takes no longer than a call (a norm) stays with the first piece."""


@dataclass(frozen=True, slots=True)
class HeadPieces:
    """The head of a phase, worth cutting.

    Attributes:
        span: Index of the stage that holds it.
        segment: The head, among that stage's segments.
        ahead: Segments before it, which become a stage of their own; none if they take next to no time.
        count: How many stages it should become.
        time_us: Predicted for all of it, one micro-batch.
    """

    span: int
    segment: Segment
    ahead: tuple[Segment, ...]
    count: int
    time_us: float


def head_pieces(decision: Decision, spans: Sequence[Span]) -> HeadPieces | None:
    """How the head of the decode step should be cut; None where it should stay whole.

    It is cut into as many pieces as the longest other stage of its pool goes into it: none shorter than
    that stage, nor than ``LEAST_US``, and no more than ``MOST``. A head by itself on its pool, or the only
    micro-batch in flight, keeps nobody waiting.

    Args:
        decision: The chosen plan.
        spans: Its decode stages in order.
    """
    heads = [(i, s) for i, span in enumerate(spans) for s in span.segments if s.role is Role.HEAD]
    if len(heads) != 1 or decision.answer.configuration.micro_batches < 2:
        return None
    ((index, head),) = heads
    whole = spans[index]
    ahead = replace(whole, segments=whole.segments[: whole.segments.index(head)])
    others = [span for i, span in enumerate(spans) if i != index and span.place == whole.place]
    longest_us = max((_decode_us(decision, span) for span in others), default=0.0)
    if longest_us <= 0.0:
        return None
    time_us = _decode_us(decision, replace(whole, segments=(head,)))
    ahead_us = _decode_us(decision, ahead)
    count = min(int(time_us / max(longest_us, ahead_us)), int(time_us / LEAST_US), MOST)
    apart = ahead.segments if ahead_us > NEGLIGIBLE_US else ()
    return HeadPieces(index, head, apart, count, time_us) if count > 1 else None


def _decode_us(decision: Decision, span: Span) -> float:
    times = span_times(decision.request.pieces, decision.answer, span, Phase.DECODE)
    return float(times.total) * US
