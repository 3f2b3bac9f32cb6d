"""What a plan would do on the machine that it is priced on, by playing its schedule on a virtual clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from disaggc.plans import Plan
from disaggc.runtime.scheduler import Worked
from disaggc.runtime.virtual_clock import busy_share, simulate

STEPS = 64


@dataclass(frozen=True, slots=True)
class Forecast:
    """A prediction of decoding.

    Attributes:
        tokens_per_s: Of all requests.
        busy: Pool or link to the share of the time that it is busy; what is missing to 1 is the bubble.
        step_us: Of one micro-batch.
    """

    tokens_per_s: float
    busy: Mapping[str, float]
    step_us: float


def forecast(plan: Plan, micro_batches: int, steps: int = STEPS) -> Forecast:
    """Decoding with ``micro_batches`` in flight, each of as many requests as the plan says.

    The pool that computes the logits spends the engine's time of a step at the step's end: it chooses the
    tokens before the next step may begin.

    Args:
        plan: Priced for its own micro-batch.
        micro_batches: In flight.
        steps: Decode steps to play.
    """
    schedule = plan.schedule
    *others, last = plan.decode.stages
    led = replace(last, time_us=last.time_us + schedule.overhead_us)
    played = replace(plan, decode=replace(plan.decode, stages=(*others, led)))
    tokens = steps * schedule.micro_batch
    worked = [Worked(m, "decode", steps, tokens, 0.0, 0.0, ()) for m in range(micro_batches)]
    entries = simulate(played, worked)
    end_us = max(entry.end_us for entry in entries)
    made = micro_batches * tokens * schedule.tokens_per_step
    return Forecast(made / end_us * 1e6, busy_share(entries), end_us / steps)
