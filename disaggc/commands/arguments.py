"""What commands share: how one is added, where declarations are looked for, how warnings are told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from disaggc import report
from disaggc.errors import ModelError, PlanError
from disaggc.plans import JOB_FILE, FleetPlan, Job, open_fleet, open_job, open_plan

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where commands are added; argparse gives its class no public name."""


def add_command(commands: Commands, name: str, text: str, more: str = "") -> argparse.ArgumentParser:
    """A command with its one line of help, which is its description, too."""
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_library(parser: argparse.ArgumentParser) -> None:
    """Add --library."""
    parser.add_argument(
        "--library",
        type=Path,
        metavar="DIR",
        help="your own declarations (passes/, targets/) in front of the shipped ones",
    )


def warn(screen: report.Screen, warnings: Sequence[str]) -> None:
    """Print warnings."""
    for text in warnings:
        screen.warn(text)


def opened_fleet(folder: Path) -> report.Fleet:
    """A fleet's plan with those of its deployments.

    Raises:
        PlanError: There is no such plan, or a file of it is missing or was changed.
    """
    plan = open_fleet(folder)
    return report.Fleet(plan, {r.name: open_plan(folder / r.plan) for r in plan.replicas if r.plan})


def kept_job(folder: Path, plan: FleetPlan) -> tuple[Job, Path]:
    """The job that a fleet was compiled from, and the folder that its paths are relative to.

    Raises:
        JobError: The folder holds no job.
        ModelError: The model is not where it was.
        PlanError: Another model has its name, or the job is not the plan's.
    """
    from disaggc.frontends import sha256  # it takes its time to load

    try:
        root = Path((folder / "model.path").read_text(encoding="utf-8").strip())
    except OSError as error:
        raise PlanError(
            f"Plan '{folder}' lacks 'model.path' ({error.strerror}). Compile it again."
        ) from error
    job = open_job(folder)
    if _facts_of_job(job) != _facts_of_plan(plan):
        raise PlanError(
            f"'{JOB_FILE}' in '{folder}' is not the job that its plan was made for. Compile it again, or add "
            f"--job JOB.toml."
        )
    path = root / job.model.onnx
    if not path.is_file():
        raise ModelError(
            f"The model is not at '{path}' any more. Add --job JOB.toml, which says where it is."
        )
    if sha256(path) != plan.model.sha256:
        raise PlanError(f"'{path}' is not the model that '{folder}' was compiled from. Compile it again.")
    return job, root


Facts = tuple[object, ...]


def _facts_of_job(job: Job) -> Facts:
    """What a job and the plan made for it must say alike."""
    model, goal = job.model, job.objective
    tiers = tuple(
        (t.name, t.context_tokens, t.ttft_ms, t.price_usd_per_mtok or 0.0, t.least_share) for t in job.tier
    )
    return job.fleet, tiers, (model.weights, model.kv, model.activations), (goal.name, goal.then)


def _facts_of_plan(plan: FleetPlan) -> Facts:
    formats = plan.formats
    tiers = tuple(
        (t.name, t.context_tokens, t.ttft_ms, t.price_usd_per_mtok, t.least_share) for t in plan.tiers
    )
    counts = {system.system: system.available for system in plan.systems}
    return counts, tiers, (formats.weights, formats.kv, formats.activations), (plan.objective, plan.then)
