"""Generates tokens with a plan: prefill, hand-over of the state, decode in lock-step; greedy.

``Deployment`` is the plan with its executors open; ``run`` opens one, generates, and lets it go.
Requests of equal prompt length form a micro-batch with a state of its own (see ``batches``).
Micro-batches run one after the other: in one process there is nothing to overlap them with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from disaggc.plans import Plan
from disaggc.runtime.batches import check_job, micro_batches
from disaggc.runtime.executor import Executor
from disaggc.runtime.generation import Fabric, Generation
from disaggc.runtime.model_file import check_model
from disaggc.runtime.results import RunResult, StageTime, in_order, links, phase_time
from disaggc.runtime.sessions import Opener, StageOpener
from disaggc.runtime.threads import threads_in_effect
from disaggc.runtime.transport import InProcess
from disaggc.runtime.weights import check_weights, read_table
from disaggc.runtime.wiring import Phase, Wiring, phase_of, wire


def run(
    plan: Plan,
    folder: Path,
    model_folder: Path,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    threads: int = 1,
    keep_logits: bool = False,
) -> RunResult:
    """Generate with a plan, in this process.

    Args:
        plan: The plan.
        folder: The plan folder, which holds the subgraphs.
        model_folder: The folder of the model and its weight files.
        prompts: Token ids of each request; lengths may differ.
        max_new_tokens: Tokens to generate for each request.
        threads: Threads to compute with, shared by all stages.
        keep_logits: Whether to return the logits of every step.

    Raises:
        JobError: The prompts cannot be run.
        PlanError: The plan folder is incomplete, or does not fit the model.
        WeightsError: Weights are missing, outside the model's folder, or cut short.
    """
    deployment = deploy(plan, folder, model_folder, threads)
    return deployment.generate(prompts, max_new_tokens, keep_logits=keep_logits)


def deploy(plan: Plan, folder: Path, model_folder: Path, threads: int = 1) -> Deployment:
    """Open a plan's stages, after checking that all files are there; see ``run``."""
    check_model(plan.model, model_folder)
    stages = (*phase_of(plan, "prefill").stages, *phase_of(plan, "decode").stages)
    check_weights(read_table(folder), {stage.subgraph for stage in stages}, model_folder)
    return Deployment(plan, StageOpener(folder, model_folder, threads), threads)


class Deployment:
    """A plan with its executors open; may generate any number of times."""

    def __init__(self, plan: Plan, opener: Opener, threads: int = 1) -> None:
        """Open one executor a pool.

        Raises:
            PlanError: A stage cannot be opened, or reads what nobody gives it.
        """
        self._plan = plan
        self._threads = threads
        phases = (phase_of(plan, "prefill"), phase_of(plan, "decode"))
        pools = dict.fromkeys(stage.pool for phase in phases for stage in phase.stages)
        self._executors = {pool: Executor(pool, plan, opener) for pool in pools}
        self._prefill = self._connect("prefill")
        self._decode = self._connect("decode")

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, keep_logits: bool = False
    ) -> RunResult:
        """Generate ``max_new_tokens`` for every prompt; see ``run``."""
        check_job(self._plan, prompts, max_new_tokens)
        for executor in self._executors.values():
            executor.reset()
        transport = InProcess(self._executors)
        fabric = Fabric(self._plan, self._executors, transport, self._prefill, self._decode)
        done = [
            Generation(fabric, index, batch, max_new_tokens, keep_logits).run()
            for index, batch in enumerate(micro_batches(prompts))
        ]
        return RunResult(
            tokens=in_order(done, lambda row, batch: tuple(batch.tokens[row].tolist())),
            prefill=phase_time("prefill", done),
            decode=phase_time("decode", done),
            stages=self._stage_times(),
            links=links(transport.traffic),
            handed_over=sum(batch.handed_over for batch in done),
            threads=threads_in_effect(self._threads),
            logits=in_order(done, lambda row, batch: batch.logits[row]) if keep_logits else (),
        )

    def _connect(self, phase: Phase) -> Wiring:
        stages = phase_of(self._plan, phase).stages
        ports = [self._executors[stage.pool].ports(phase, i) for i, stage in enumerate(stages)]
        wiring = wire(self._plan, phase, ports)
        for executor in self._executors.values():
            executor.connect(phase, wiring)
        return wiring

    def _stage_times(self) -> tuple[StageTime, ...]:
        tallies = {key: (e.pool, tally) for e in self._executors.values() for key, tally in e.tallies.items()}
        order: tuple[Phase, ...] = ("prefill", "decode")
        return tuple(
            StageTime(phase, index, pool, tally.calls, tally.nanoseconds / 1e9)
            for (phase, index), (pool, tally) in sorted(
                tallies.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
            )
        )
