"""One micro-batch from its prompts to its last token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from disaggc.plans import Plan
from disaggc.runtime.batches import MicroBatch
from disaggc.runtime.executor import Executor
from disaggc.runtime.feeds import Feeder, Lengths
from disaggc.runtime.states import live_bytes
from disaggc.runtime.tensors import Array, last_rows
from disaggc.runtime.transport import Transport
from disaggc.runtime.wiring import Hop, Phase, Wiring


@dataclass(frozen=True, slots=True)
class Fabric:
    """A plan's executors, and what connects them."""

    plan: Plan
    executors: Mapping[str, Executor]
    transport: Transport
    prefill: Wiring
    decode: Wiring

    def wiring(self, phase: Phase) -> Wiring:
        """How values flow in a phase."""
        return self.prefill if phase == "prefill" else self.decode


@dataclass(frozen=True, slots=True)
class Generated:
    """What a micro-batch came to.

    Attributes:
        requests: The positions of its requests among all.
        prompt_tokens: Tokens of one prompt.
        tokens: New tokens [batch, steps].
        logits: [batch, steps, vocabulary] in float32; without steps unless kept.
        prefill_seconds, decode_seconds: Wall-clock time.
        handed_over: Bytes of state that changed executor between the phases.
    """

    requests: tuple[int, ...]
    prompt_tokens: int
    tokens: Array
    logits: Array
    prefill_seconds: float
    decode_seconds: float
    handed_over: int


class Generation:
    """Takes one micro-batch through prefill, hand-over and decode."""

    def __init__(self, fabric: Fabric, index: int, batch: MicroBatch, steps: int, keep_logits: bool) -> None:
        self._fabric = fabric
        self._index = index
        self._batch = batch
        self._steps = steps
        self._keep_logits = keep_logits
        self._tokens: list[Array] = []
        self._logits: list[Array] = []

    def run(self) -> Generated:
        """Generate all tokens, then forget the micro-batch."""
        start = perf_counter()
        self._prefill()
        middle = perf_counter()
        handed_over = self._hand_over()
        self._decode()
        end = perf_counter()
        for executor in self._fabric.executors.values():
            executor.end(self._index)
        rows, length = self._batch.tokens.shape
        return Generated(
            requests=self._batch.requests,
            prompt_tokens=length,
            tokens=np.stack(self._tokens, axis=1),
            logits=np.stack(self._logits, axis=1) if self._logits else np.empty((rows, 0, 0), np.float32),
            prefill_seconds=middle - start,
            decode_seconds=end - middle,
            handed_over=handed_over,
        )

    def _prefill(self) -> None:
        rows, length = self._batch.tokens.shape
        wiring = self._fabric.prefill
        for pool in wiring.pools:
            self._fabric.executors[pool].begin(self._index, wiring.kept_by(pool), self._extents())
        feeder = self._feeder("prefill")
        self._choose(self._step("prefill", feeder, Lengths(rows, 0, length), self._batch.tokens))

    def _decode(self) -> None:
        rows, length = self._batch.tokens.shape
        feeder = self._feeder("decode")
        for cached in range(length, length + self._steps - 1):
            tokens = self._tokens[-1][:, None]
            self._choose(self._step("decode", feeder, Lengths(rows, cached, 1), tokens))

    def _step(self, phase: Phase, feeder: Feeder, lengths: Lengths, tokens: Array) -> Array:
        """The logits [batch, vocabulary] after one step."""
        executors, send = self._fabric.executors, self._fabric.transport.send
        wiring, index = self._fabric.wiring(phase), self._index
        feeds = feeder.step(lengths, tokens)
        for pool, names in wiring.feeds.items():
            executors[pool].receive(index, {name: feeds[name] for name in names})
        for hop in wiring.lent:
            send(index, hop)
        for number, stage in enumerate(wiring.stages):
            executors[stage.pool].run(index, phase, number)
            for hop in wiring.hops[number]:
                send(index, hop)
        for pool in wiring.pools:
            executors[pool].commit(index, phase)
        name = self._fabric.plan.logits
        return last_rows(executors[wiring.logits].values(index, (name,))[name])

    def _choose(self, logits: Array) -> None:
        """Greedy: the likeliest token, the lowest id among equals."""
        self._tokens.append(logits.argmax(axis=-1))
        if self._keep_logits:
            self._logits.append(logits)

    def _hand_over(self) -> int:
        """Bring every state to its decode executor, and forget the rest of prefill."""
        fabric = self._fabric
        moved: dict[tuple[str, str], list[str]] = {}
        for past, pool in fabric.decode.keepers.items():
            if fabric.prefill.keepers[past] != pool:
                moved.setdefault((fabric.prefill.keepers[past], pool), []).append(past)
        for (source, target), pasts in moved.items():
            fabric.transport.hand_over(self._index, Hop(source, target, tuple(pasts)))
        for pool, executor in fabric.executors.items():
            executor.retain(self._index, fabric.decode.kept_by(pool))
        names = {past for pasts in moved.values() for past in pasts}
        length = self._batch.tokens.shape[1]
        return sum(live_bytes(s, self._extents(), length) for s in fabric.plan.states if s.past in names)

    def _feeder(self, phase: Phase) -> Feeder:
        read = {name for names in self._fabric.wiring(phase).feeds.values() for name in names}
        return Feeder([feed for feed in self._fabric.plan.feeds if feed.input in read])

    def _extents(self) -> dict[str, int]:
        rows, length = self._batch.tokens.shape
        return {"batch": rows, "capacity": length + self._steps}
