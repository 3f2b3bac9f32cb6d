"""What a plan would do on the machine that it is priced on, by playing its schedule on a virtual clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from disaggc.plans import Plan, with_whole_heads
from disaggc.runtime.scheduler import Worked
from disaggc.runtime.virtual_clock import busy_share, simulate
from disaggc.targets import Link, System

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


def in_one_process(plan: Plan, system: System) -> Plan:
    """The plan with all of its stages in one process: they take turns, and messages are no more than calls.

    Args:
        plan: Priced for executors of ``system`` in processes of their own.
        system: What its pools are.
    """
    plan = with_whole_heads(plan)  # as executors in one process have them
    apart, beside = (_occupancy_us(link) for link in (system.scale_out, system.scale_up))
    ends = [0] * len(plan.decode.stages)
    for transfer in plan.decode.transfers:
        reader = next(s.index for s in plan.decode.stages[transfer.after + 1 :] if s.pool == transfer.target)
        ends[transfer.after] += 1
        ends[reader] += 1
    stages = tuple(
        replace(stage, pool=system.name, time_us=stage.time_us + count * (beside - apart))
        for stage, count in zip(plan.decode.stages, ends, strict=True)
    )
    return replace(plan, decode=replace(plan.decode, stages=stages, transfers=()))


def _occupancy_us(link: Link) -> float:
    return 0.0 if link.occupancy is None else link.occupancy.si * 1e6
