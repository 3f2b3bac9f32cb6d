"""Runs a small decoder whole, cut in one process, and cut over two: what executors cost beside kernels."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

from disaggc.backends.probes import decoder
from disaggc.calibration.declaring import toml_of
from disaggc.calibration.fitting import Steps
from disaggc.calibration.probing import ROUNDS, Tell, spread, undisturbed
from disaggc.compiler import Options as CompileOptions
from disaggc.compiler import compile_job
from disaggc.plans import Job, ModelSpec, Plan, SearchSpec, TierSpec
from disaggc.runtime import Execution, RunResult, deploy, deploy_reference
from disaggc.runtime.driver import Deployment
from disaggc.targets import System

LAYERS = 6
CROWD = 3
"""Micro-batches with which one of two processes is always busy."""
PROMPT = (7, 3, 11, 5)
WARM_UP_TOKENS = 8
TOKENS = 64
MODEL = "decoder.onnx"


def write_system(system: System, library: Path) -> None:
    """A system as a file of a library of declarations."""
    folder = library / "targets" / "systems"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{system.name}.toml").write_text(toml_of(system), encoding="utf-8")


def measured_steps(
    systems: tuple[System, System], threads: int, parallel: bool, budget_s: float, tell: Tell
) -> tuple[Steps, float]:
    """Steps of the decoder, and the median spread of the rounds.

    Args:
        systems: Two executors that its cut is for.
        threads: Threads of each.
        parallel: Whether there are cores for two.
        budget_s: How long it may decode, opening not counted.
        tell: Told what is being done.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        tell("a small decoder: compiling")
        plan = _compiled(systems, root)
        with contextlib.ExitStack() as open_ones:
            ways = _Ways(plan, root, threads, parallel, open_ones)
            tell("a small decoder: starting executors")
            rounds = list(ways.rounds(budget_s, tell))
    rates = [[_step(result) for result in column] for column in zip(*rounds, strict=True)]
    spreads = [spread(column) for column in rates]
    return _steps(plan, rounds, rates), statistics.median(spreads)


class _Ways:
    """The decoder, open in every way that it is run."""

    def __init__(
        self, plan: Plan, root: Path, threads: int, parallel: bool, stack: contextlib.ExitStack
    ) -> None:
        folder = root / "plan"
        self._ways: list[tuple[Deployment, int]] = [
            (stack.enter_context(deploy_reference(plan, root, threads)), 1),
            (stack.enter_context(deploy(plan, folder, root, threads, Execution(micro_batch=1))), 1),
        ]
        for m, spin_us in ((1, None), (1, 0), (CROWD, None)) if parallel else ():
            apart = Execution(on="processes", micro_batch=1, micro_batches=m, spin_us=spin_us)
            self._ways.append((stack.enter_context(deploy(plan, folder, root, threads, apart)), m))
        for way, requests in self._ways:
            way.generate([PROMPT] * requests, WARM_UP_TOKENS)

    def rounds(self, budget_s: float, tell: Tell) -> Iterator[list[RunResult]]:
        """Each way once a round, until the time is over; a few rounds at least."""
        end, count = perf_counter() + budget_s, 0
        while count < ROUNDS or perf_counter() < end:
            count += 1
            tell(f"a small decoder: round {count}")
            yield [way.generate([PROMPT] * requests, TOKENS) for way, requests in self._ways]


def _compiled(systems: tuple[System, System], root: Path) -> Plan:
    """A plan that cuts every layer."""
    (root / MODEL).write_bytes(decoder(LAYERS))
    for system in systems:
        write_system(system, root / "library")
    tier = TierSpec(
        name="calibration",
        context_tokens=256,
        ttft_ms=1e9,
        tokens_per_s_per_user=1e-3,
        input_tokens=len(PROMPT),
        output_tokens=TOKENS,
    )
    job = Job(
        ModelSpec(MODEL),
        {system.name: 1 for system in systems},
        (tier,),
        search=SearchSpec(batch=(1,), micro_batches=(CROWD,), mode="afd"),
    )
    return compile_job(job, root, root / "plan", CompileOptions(library=root / "library"))


def _step(result: RunResult) -> float:
    """Seconds of a step of one micro-batch; with several at work, of each of them."""
    return result.decode.seconds / result.decode.steps


def _steps(plan: Plan, rounds: Sequence[Sequence[RunResult]], seconds: Sequence[Sequence[float]]) -> Steps:
    whole, split, *apart = (undisturbed(column) for column in seconds)
    alone, asleep, crowded = apart or (None, None, None)
    outside = undisturbed([results[0].step_overhead_us for results in rounds]) / 1e6
    last = [results[-1] for results in rounds]
    return Steps(
        hops=len(plan.decode.transfers),
        whole=whole,
        inside=whole - outside,
        split=split,
        alone=alone,
        asleep=asleep,
        crowded=crowded,
        pools={pool.name: _inside(pool.name, last) for pool in plan.pools} if apart else {},
        lead=plan.decode.stages[-1].pool,
    )


def _inside(pool: str, results: Sequence[RunResult]) -> float:
    """Seconds of a step that a pool spends within onnxruntime."""
    return undisturbed(
        [
            sum(s.seconds for s in r.stages if s.phase == "decode" and s.pool == pool) / r.decode.steps
            for r in results
        ]
    )
