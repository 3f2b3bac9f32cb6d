"""Decoding with a plan's stages against one onnxruntime session of the whole model.

    python benchmarks/split_table.py ../shared/models              every model with weights below a folder
    python benchmarks/split_table.py MODEL.onnx --new-tokens 200 --rounds 9

Each model is compiled for long contexts on vr-nvl72 and groq3-lpx, where attention and the rest part, so
that every layer crosses between pools. Plan and whole model then decode in one process with the same
threads, in turn, so that a change of the machine's speed hits both; figures are medians over rounds.
"us a stage" is what each stage beyond the first adds to a decode step; "outside" is the part of a step
that is spent outside onnxruntime (feeds, hops between executors, choice of the token).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from disaggc.compiler import Options, compile_job
from disaggc.errors import DisaggcError
from disaggc.plans import Job, ModelSpec, Plan, SearchSpec, TierSpec
from disaggc.runtime import RunResult, deploy, deploy_reference

PROMPT = (7, 3, 11, 5, 2, 13)


def main() -> None:
    """Print the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL|FOLDER")
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(
        f"{'model':34} {'stages':>6} {'whole tok/s':>12} {'plan tok/s':>11} {'ratio':>6} "
        f"{'us a stage':>11} {'outside us':>11}  tokens"
    )
    for path in models(options.models):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                print_row(path, Path(scratch) / "plan", options.new_tokens, options.rounds, options.threads)
            except DisaggcError as error:
                print(f"{label(path):34} {error}")


def print_row(path: Path, folder: Path, new_tokens: int, rounds: int, threads: int) -> None:
    """Compile one model, decode both ways in turn, and print its row."""
    plan = compiled(path, folder)
    whole_model = deploy_reference(plan, path.parent, threads)
    split_model = deploy(plan, folder, path.parent, threads)
    whole: list[RunResult] = []
    split: list[RunResult] = []
    for _ in range(rounds + 1):
        whole.append(whole_model.generate([PROMPT], new_tokens))
        split.append(split_model.generate([PROMPT], new_tokens))
    fast, slow = step_us(whole[1:]), step_us(split[1:])
    stages = len(plan.decode.stages)
    same = all(w.tokens == s.tokens for w, s in zip(whole, split, strict=True))
    outside = statistics.median(s.step_overhead_us for s in split[1:])
    pairs = zip(whole[1:], split[1:], strict=True)
    ratio = statistics.median(w.decode.seconds / s.decode.seconds for w, s in pairs)
    print(
        f"{label(path):34} {stages:>6} {1e6 / fast:>12,.0f} {1e6 / slow:>11,.0f} {ratio:>6.2f} "
        f"{(slow - fast) / max(1, stages - 1):>11.1f} {outside:>11.1f}  {'equal' if same else 'DIFFERENT'}",
        flush=True,
    )


def step_us(runs: Sequence[RunResult]) -> float:
    """Median microseconds of a decode step."""
    return statistics.median(run.decode.seconds / run.decode.steps for run in runs) * 1e6


def compiled(path: Path, folder: Path) -> Plan:
    """A plan that cuts every layer: long contexts, so that caches want HBM and the rest SRAM."""
    tier = TierSpec(like="gtc2026/high", context_tokens=100_000, prefix_hit=0.99)
    job = Job(
        ModelSpec(path.name, "fp8", "fp8", "bf16"),
        {"vr-nvl72": 1, "groq3-lpx": 1},
        (tier,),
        search=SearchSpec(batch=(64,)),
    )
    return compile_job(job, path.parent, folder, Options(force=True))


def models(named: Sequence[Path]) -> Iterator[Path]:
    """Every .onnx that is named or lies below a named folder."""
    for path in named:
        yield from sorted(path.rglob("*.onnx")) if path.is_dir() else [path]


def label(path: Path) -> str:
    """A short name: the folder's for files that are just called model.onnx."""
    return f"{path.parent.parent.name}/{path.parent.name}" if path.stem == "model" else path.stem


if __name__ == "__main__":
    main()
