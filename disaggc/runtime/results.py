"""What a run gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from disaggc.runtime.generation import Generated
from disaggc.runtime.tensors import Array
from disaggc.runtime.transport import Traffic
from disaggc.runtime.wiring import Phase

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """A phase over all micro-batches: steps taken, tokens that went in, and wall-clock seconds."""

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
class RunResult:
    """A finished run.

    Attributes:
        tokens: New token ids of each request, in the order of the prompts.
        prefill, decode: The two phases.
        stages: What each stage did.
        links: What crossed between pools, step by step.
        handed_over: Bytes of state that went from prefill to decode executors.
        threads: Threads that onnxruntime computed with.
        logits: Of each request, [new tokens, vocabulary] in float32; empty unless asked for.
    """

    tokens: tuple[tuple[int, ...], ...]
    prefill: PhaseTime
    decode: PhaseTime
    stages: tuple[StageTime, ...]
    links: tuple[Link, ...]
    handed_over: int
    threads: int
    logits: tuple[Array, ...] = ()

    @property
    def step_overhead_us(self) -> float:
        """Microseconds of a decode step that are spent outside stages: feeds, hops, choice of token."""
        inside = sum(stage.seconds for stage in self.stages if stage.phase == "decode")
        return (self.decode.seconds - inside) / max(self.decode.steps, 1) * 1e6


def in_order(batches: Sequence[Generated], pick: Callable[[int, Generated], T]) -> tuple[T, ...]:
    """Something of each request, in the order of the prompts.

    Args:
        batches: The micro-batches.
        pick: Gives it from the row of a request within its micro-batch.
    """
    found = {request: pick(row, batch) for batch in batches for row, request in enumerate(batch.requests)}
    return tuple(found[request] for request in sorted(found))


def phase_time(phase: Phase, batches: Sequence[Generated]) -> PhaseTime:
    """A phase over all micro-batches."""
    if phase == "prefill":
        tokens = sum(len(batch.requests) * batch.prompt_tokens for batch in batches)
        return PhaseTime(phase, len(batches), tokens, sum(batch.prefill_seconds for batch in batches))
    steps = [batch.tokens.shape[1] - 1 for batch in batches]
    tokens = sum(len(batch.requests) * count for batch, count in zip(batches, steps, strict=True))
    return PhaseTime(phase, sum(steps), tokens, sum(batch.decode_seconds for batch in batches))


def links(traffic: Mapping[tuple[str, str], Traffic]) -> tuple[Link, ...]:
    """What crossed between pools, sorted."""
    return tuple(
        Link(source, target, t.messages, t.tensors, t.nbytes)
        for (source, target), t in sorted(traffic.items())
    )
