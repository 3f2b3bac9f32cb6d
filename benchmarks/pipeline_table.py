"""Decoding with a plan's executors, in one process and in several, beside what else two cores can do.

    python benchmarks/pipeline_table.py examples/models/qwen3_moe.gqa_moe.onnx
    python benchmarks/pipeline_table.py MODEL.onnx --new-tokens 60 --rounds 5

The model is compiled so that attention and the rest part in every layer. Each row runs in a process of
its own, all rows in turn in every round, so that a change of the machine's speed hits them all;
ratios are taken within a round, and their median is printed, with the lowest and the highest. Executors
that wait spin; the rows with more than one process mean little while anybody else wants the cores.

    whole            one onnxruntime session of the whole model, one thread, one request
    whole b=N        the same with N requests in one batch
    whole 2T         the same with two threads, one request
    replicas         two such sessions in two processes, one request each
    split            the plan's stages in one process, one thread, one request
    m=N              one process for each pool, N micro-batches of one request in ping-pong
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from split_table import PROMPT, compiled, label

from disaggc.plans import open_plan
from disaggc.runtime import Execution, RunResult, deploy, deploy_reference


@dataclass(frozen=True, slots=True)
class Row:
    """A way to decode: requests at a time, processes that each run it, and how."""

    name: str
    requests: int = 1
    replicas: int = 1
    threads: int = 1
    micro_batches: int = 0
    is_whole: bool = True


ROWS = (
    Row("whole"),
    Row("whole b=2", requests=2),
    Row("whole b=3", requests=3),
    Row("whole 2T", threads=2),
    Row("replicas", replicas=2),
    Row("split", is_whole=False),
    *(Row(f"m={m}", requests=m, micro_batches=m, is_whole=False) for m in (1, 2, 3)),
)
WARM_UP_TOKENS = 8


def main() -> None:
    """Print the table, or measure one row of it for the process that does."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--row", choices=[row.name for row in ROWS], help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        row = next(row for row in ROWS if row.name == options.row)
        print(json.dumps(measure(row, options.plan, options.model, options.new_tokens)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "plan"
        plan = compiled(options.model, folder)
        print(f"{label(options.model)}: {len(plan.decode.stages)} stages; {plan.mode}", flush=True)
        rounds = [
            {row.name: tokens_per_s(row, folder, options) for row in ROWS} for _ in range(options.rounds)
        ]
        show(rounds)


def measure(row: Row, folder: Path, model: Path, new_tokens: int) -> float:
    """Decoded tokens per second."""
    plan = open_plan(folder)
    here = Execution(
        on="processes" if row.micro_batches else "local",
        micro_batch=1 if row.micro_batches else row.requests,
        micro_batches=max(row.micro_batches, 1),
    )
    opened = (
        deploy_reference(plan, model.parent, row.threads)
        if row.is_whole
        else deploy(plan, folder, model.parent, row.threads, here)
    )
    with opened as deployment:
        prompts = [PROMPT] * row.requests
        deployment.generate(prompts, WARM_UP_TOKENS)
        print("ready", flush=True)
        sys.stdin.readline()
        result: RunResult = deployment.generate(prompts, new_tokens)
    return result.decode.tokens_per_s


def tokens_per_s(row: Row, folder: Path, options: argparse.Namespace) -> float:
    """A row's tokens per second in this round, over all its replicas."""
    command = [sys.executable, __file__, str(options.model), "--row", row.name, "--plan", str(folder)]
    command += ["--new-tokens", str(options.new_tokens)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(row.replicas)]  # type: ignore[call-overload]  # noqa: S603
    for process in running:
        process.stdout.readline()
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(json.loads(process.communicate()[0])) for process in running)


def show(rounds: Sequence[dict[str, float]]) -> None:
    """Median rates, and median ratios to the whole model and to one micro-batch."""
    print(f"{'':12} {'tok/s':>8} {'of whole':>9} {'range':>13} {'of m=1':>7}")
    for row in ROWS:
        ratios = sorted(found[row.name] / found["whole"] for found in rounds)
        to_one = statistics.median(found[row.name] / found["m=1"] for found in rounds)
        rate = statistics.median(found[row.name] for found in rounds)
        print(
            f"{row.name:12} {rate:>8,.0f} {statistics.median(ratios):>9.2f} "
            f"{ratios[0]:>6.2f}-{ratios[-1]:<6.2f} {to_one:>7.2f}"
        )


if __name__ == "__main__":
    main()
