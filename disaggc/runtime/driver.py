"""Generates tokens with a plan: prefill, hand-over of the state, decode; greedy.

``Deployment`` is the plan with its executors open; ``run`` opens one, generates, and lets it go.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from disaggc.errors import DisaggcError, JobError
from disaggc.plans import Plan
from disaggc.runtime.cluster import on_cluster
from disaggc.runtime.execution import (
    Execution,
    as_executed,
    check_memory,
    instances_of,
    kv_budget,
    limits_of,
    micro_batches_of,
)
from disaggc.runtime.in_process import InProcess
from disaggc.runtime.lanes import make_lanes
from disaggc.runtime.model_file import check_model
from disaggc.runtime.processes import Processes
from disaggc.runtime.ragged import is_ragged
from disaggc.runtime.requests import Live, Request, check_job, refusal
from disaggc.runtime.results import RunResult, result_of
from disaggc.runtime.scheduler import Limits, Scheduler
from disaggc.runtime.sessions import StageOpener
from disaggc.runtime.transport import Transport
from disaggc.runtime.waiting import Waiting
from disaggc.runtime.weights import check_weights, read_table
from disaggc.runtime.wiring import phase_of

_HERE = Execution()


def run(
    plan: Plan,
    folder: Path,
    model_folder: Path,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    threads: int = 1,
    keep_logits: bool = False,
    execution: Execution = _HERE,
    stop_ids: Collection[int] = (),
) -> RunResult:
    """Generate with a plan.

    Args:
        plan: The plan.
        folder: The plan folder, which holds the subgraphs.
        model_folder: The folder of the model and its weight files.
        prompts: Token ids of each request; lengths may differ.
        max_new_tokens: Tokens to generate for each request.
        threads: Threads to compute with, shared by all stages of a process.
        keep_logits: Whether to return the logits of every step.
        execution: Where, and with how many executors.
        stop_ids: Tokens that end an answer.

    Raises:
        JobError: The prompts cannot be run, not one of them.
        PlanError: The plan folder is incomplete, or does not fit the model.
        WeightsError: Weights are missing, outside the model's folder, or cut short.
        ExecutorError: Executors cannot be started, or keep being lost.
    """
    with deploy(plan, folder, model_folder, threads, execution) as deployment:
        return deployment.generate(prompts, max_new_tokens, keep_logits=keep_logits, stop_ids=stop_ids)


def deploy(
    plan: Plan, folder: Path, model_folder: Path, threads: int = 1, execution: Execution = _HERE
) -> Deployment:
    """Open a plan's stages, after checking that all files are there; see ``run``."""
    check_model(plan.model, model_folder)
    plan = as_executed(plan, execution)
    stages = (*phase_of(plan, "prefill").stages, *phase_of(plan, "decode").stages)
    check_weights(read_table(folder), {stage.subgraph for stage in stages}, model_folder)
    instances = instances_of(plan, execution)
    check_memory(execution)
    if execution.on == "processes":
        return Deployment(
            plan, Processes(plan, folder, model_folder, instances, threads, execution), execution
        )
    if execution.on == "ray":
        return Deployment(
            plan, on_cluster(plan, folder, model_folder, instances, threads, execution), execution
        )
    opener = StageOpener(folder, model_folder, threads, plan.files)
    return Deployment(plan, InProcess(plan, opener, instances, threads, execution.traced), execution)


class Deployment:
    """A plan with its executors open; may generate any number of times, then is closed."""

    def __init__(
        self, plan: Plan, transport: Transport, execution: Execution = _HERE, ragged: bool | None = None
    ) -> None:
        """Take over open executors.

        Args:
            plan: The plan.
            transport: The way to its executors.
            execution: How many micro-batches, and within which limits.
            ragged: Whether requests of unequal length may share a micro-batch; found out if None.
        """
        self._plan = plan
        self._transport = transport
        self._execution = execution
        self._ragged = ragged
        self._numbers = itertools.count(1)
        self._is_clean = True

    def __enter__(self) -> Deployment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the executors go."""
        self._transport.close()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        keep_logits: bool = False,
        stop_ids: Collection[int] = (),
    ) -> RunResult:
        """Generate ``max_new_tokens`` for every prompt, or up to a stop; see ``run``."""
        stops = frozenset(stop_ids)
        requests = [Request(tuple(prompt), max_new_tokens, stop_ids=stops) for prompt in prompts]
        return self.serve(requests, keep_logits=keep_logits)

    def serve(self, requests: Sequence[Request], *, keep_logits: bool = False) -> RunResult:
        """Take requests of any lengths, as they arrive, to their ends; see ``run``.

        One that cannot be run fails alone: its error is in the result.

        Raises:
            DisaggcError: All of them failed; the first one's error.
        """
        check_job(requests)
        budget = kv_budget(self._plan, self._execution)
        lives = [Live(i, r, error=refusal(self._plan, i, r, budget)) for i, r in enumerate(requests)]
        ragged = self._may_share(requests)
        limits = limits_of(self._plan, self._execution, ragged)
        scheduler = self._attempt(lives, limits, self._micro_batches, keep_logits)
        if all(live.error for live in lives):
            raise _first_error(lives)
        return result_of(self._plan, self._transport, scheduler, lives, keep_logits)

    def scheduler(self, weights: Mapping[str, float], quantum_s: float) -> Scheduler:
        """What takes requests while it runs; until it has ended, the executors do nothing else.

        Args:
            weights: Tier to its share of the executors while several wait.
            quantum_s: About how long executors may work without a word, at least one step.

        Raises:
            DisaggcError: The executors cannot do their work at all.
        """
        limits = limits_of(self._plan, self._execution, self._is_found_ragged())
        if not self._is_clean:
            self._transport.recover()
        self._is_clean = False
        lanes = make_lanes(self._transport.instances, self._micro_batches)
        limits = replace(limits, quantum_s=quantum_s)
        return Scheduler(self._transport, lanes, limits, self._numbers, waiting=Waiting(weights))

    def refusal(self, index: int, request: Request) -> JobError | None:
        """Why a request cannot be run here, while others can; None if nothing is known against it."""
        return refusal(self._plan, index, request, self.kv_tokens)

    @property
    def kv_tokens(self) -> int | None:
        """Tokens that all caches together may hold; None for no limit."""
        return kv_budget(self._plan, self._execution)

    @property
    def is_ragged(self) -> bool:
        """Whether requests of unequal length share micro-batches; False until it mattered."""
        return bool(self._ragged)

    @property
    def _micro_batches(self) -> int:
        """In one process there is nothing to overlap micro-batches with, unless it is asked for."""
        if not self._transport.is_parallel and self._execution.micro_batches is None:
            return 1
        return micro_batches_of(self._plan, self._execution)

    def _may_share(self, requests: Sequence[Request]) -> bool:
        """Whether requests of unequal length may share a micro-batch; found out when it first matters."""
        if len({(len(r.prompt), r.arrival_s) for r in requests}) > 1:
            return self._is_found_ragged()
        return self.is_ragged

    def _is_found_ragged(self) -> bool:
        if self._ragged is None:
            self._ragged = is_ragged(self._plan, self._probe)
            self._transport.report()
        return self._ragged

    def _probe(self, lives: Sequence[Live], share: bool) -> None:
        self._attempt(lives, Limits(len(lives), None, share), 1, keep_logits=True)

    def _attempt(
        self, lives: Sequence[Live], limits: Limits, micro_batches: int, keep_logits: bool
    ) -> Scheduler:
        """Run requests; whatever goes wrong, executors are empty before the next ones."""
        if not self._is_clean:
            self._transport.recover()
        self._is_clean = False
        lanes = make_lanes(self._transport.instances, micro_batches)
        scheduler = Scheduler(self._transport, lanes, limits, self._numbers, keep_logits)
        scheduler.run(lives)
        self._is_clean = True
        return scheduler


def _first_error(lives: Sequence[Live]) -> DisaggcError:
    return next(live.error for live in lives if live.error is not None)
