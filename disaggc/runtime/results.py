"""What a run gives back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from disaggc.errors import DisaggcError
from disaggc.plans import Plan
from disaggc.runtime.commands import Reported
from disaggc.runtime.requests import Live
from disaggc.runtime.scheduler import Scheduler, Worked
from disaggc.runtime.states import live_bytes
from disaggc.runtime.tensors import Array
from disaggc.runtime.transport import Transport
from disaggc.runtime.wiring import Phase, Wiring

_PHASES: tuple[Phase, ...] = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """A phase over all micro-batches: steps taken, tokens that went in, and wall-clock seconds.

    Seconds in which several micro-batches were at work count once.
    """

    phase: Phase
    steps: int
    tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second, 0 if there were none."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage did: calls, and seconds in onnxruntime with the binding of tensors."""

    phase: Phase
    index: int
    pool: str
    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Link:
    """Activations that crossed from one pool to another."""

    source: str
    target: str
    messages: int
    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class RequestTime:
    """When a request came, got its first token and its last, in seconds after the run had begun."""

    arrival_s: float
    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run.

    Attributes:
        tokens: New token ids of each request, in the order of the prompts.
        prefill, decode: The two phases.
        stages: What each stage did.
        links: What crossed between pools, step by step.
        handed_over: Bytes of state that went from prefill to decode executors.
        threads: Threads that onnxruntime computed with, in each process.
        logits: Of each request, [new tokens, vocabulary] in float32; empty unless asked for.
        failures: Request to what was wrong with it; its tokens are those that came before.
        restarts: Executors that were lost and replaced.
        requests: When each request came and went.
        reports: What each executor did, with times if the run was traced.
        worked: What each micro-batch did when.
    """

    tokens: tuple[tuple[int, ...], ...]
    prefill: PhaseTime
    decode: PhaseTime
    stages: tuple[StageTime, ...]
    links: tuple[Link, ...]
    handed_over: int
    threads: int
    logits: tuple[Array, ...] = ()
    failures: Mapping[int, DisaggcError] = field(default_factory=dict)
    restarts: int = 0
    requests: tuple[RequestTime, ...] = ()
    reports: tuple[Reported, ...] = ()
    worked: tuple[Worked, ...] = ()

    @property
    def step_overhead_us(self) -> float:
        """Microseconds of a decode step that are spent outside stages: feeds, hops, choice of token."""
        inside = sum(stage.seconds for stage in self.stages if stage.phase == "decode")
        return (self.decode.seconds - inside) / max(self.decode.steps, 1) * 1e6


def result_of(
    plan: Plan, transport: Transport, scheduler: Scheduler, lives: Sequence[Live], keep_logits: bool
) -> RunResult:
    """What requests came to, and what executors did for them."""
    reports = tuple(transport.report())
    return RunResult(
        tokens=tuple(tuple(live.tokens) for live in lives),
        prefill=phase_time("prefill", scheduler.worked),
        decode=phase_time("decode", scheduler.worked),
        stages=stage_times(reports),
        links=links(reports),
        handed_over=handed_over(plan, transport.wirings, lives),
        threads=max(report.threads for report in reports),
        logits=tuple(np.array(live.logits, np.float32) for live in lives) if keep_logits else (),
        failures={live.index: live.error for live in lives if live.error is not None},
        restarts=scheduler.restarts,
        requests=tuple(RequestTime(live.request.arrival_s, live.first_s, live.last_s) for live in lives),
        reports=reports,
        worked=tuple(scheduler.worked),
    )


def phase_time(phase: Phase, worked: Iterable[Worked]) -> PhaseTime:
    """A phase over all micro-batches."""
    own = [work for work in worked if work.phase == phase]
    seconds, end = 0.0, 0.0
    for work in sorted(own, key=lambda work: work.start_s):
        seconds += max(work.end_s - max(work.start_s, end), 0.0)
        end = max(end, work.end_s)
    return PhaseTime(phase, sum(work.steps for work in own), sum(work.tokens for work in own), seconds)


def stage_times(reports: Iterable[Reported]) -> tuple[StageTime, ...]:
    """What each stage did over all instances of its pool, in order of execution."""
    found: dict[tuple[int, int], StageTime] = {}
    for report in reports:
        for tally in report.stages:
            phase: Phase = "prefill" if tally.phase == "prefill" else "decode"
            key = (_PHASES.index(phase), tally.index)
            before = found.get(key, StageTime(phase, tally.index, report.pool, 0, 0.0))
            calls, seconds = before.calls + tally.calls, before.seconds + tally.nanoseconds / 1e9
            found[key] = StageTime(phase, tally.index, report.pool, calls, seconds)
    return tuple(found[key] for key in sorted(found))


def links(reports: Iterable[Reported]) -> tuple[Link, ...]:
    """What crossed between pools, sorted."""
    found: dict[tuple[str, str], Link] = {}
    for report in reports:
        for tally in report.links:
            key = (report.pool, tally.target)
            a = found.get(key, Link(*key, 0, 0, 0))
            found[key] = Link(
                *key, a.messages + tally.messages, a.tensors + tally.tensors, a.nbytes + tally.nbytes
            )
    return tuple(found[key] for key in sorted(found))


def handed_over(plan: Plan, wirings: Mapping[Phase, Wiring], lives: Iterable[Live]) -> int:
    """Bytes of state that had to change pool between prefill and decode, recomputed prefixes left out."""
    before, after = wirings["prefill"].keepers, wirings["decode"].keepers
    moved = [state for state in plan.states if before[state.past] != after[state.past]]
    total = 0
    for live in lives:
        extents = {"batch": 1, "capacity": live.request.context}
        if live.tokens:
            total += sum(live_bytes(state, extents, len(live.request.prompt)) for state in moved)
    return total
