"""Compile a job from Python and ask the plan questions.

    python examples/plan_from_python.py

Prints one line for each mode of serving, the best first.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from disaggc.compiler import compile_job
from disaggc.plans import Plan, load_job

JOB = Path(__file__).parent / "tiny_moe.toml"


def main() -> None:
    """Compile the example job and print what each mode would give."""
    with tempfile.TemporaryDirectory() as folder:
        plan = compile_job(load_job(JOB), JOB.parent, Path(folder) / "plan")
    for line in modes(plan):
        print(line)


def modes(plan: Plan) -> list[str]:
    """One line for each mode: tokens/s, or why there are none."""
    return [
        f"{alternative.mode}: {alternative.tokens_per_s:,.0f} tokens/s"
        if alternative.tokens_per_s is not None
        else f"{alternative.mode}: {alternative.reason}"
        for alternative in plan.alternatives
    ]


if __name__ == "__main__":
    main()
