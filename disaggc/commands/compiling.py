"""disaggc compile: what runs where, and why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from disaggc import report
from disaggc.commands.arguments import Commands, add_command, add_library, warn
from disaggc.errors import JobError
from disaggc.plans import (
    FleetPlan,
    Job,
    ModelSpec,
    Plan,
    SearchSpec,
    TierSpec,
    dump_plan,
    load_job,
    open_fleet,
)

COMPILE_MORE = """\
A job file says everything (see examples/tiny_moe.toml). Without one, name a model and a fleet:

  disaggc compile JOB.toml -o out
  disaggc compile MODEL.onnx --system vr-nvl72 --system groq3-lpx=2 --tier gtc2026/premium -o out

One tier without a demand takes all of the fleet that helps it, as one replica. Several tiers, a demand,
a [budget] or maximise = "revenue" make replicas that share the fleet (see examples/five_tiers.toml):
the folder then holds a plan for each kind of replica, and --keep stays near a plan that runs already.

Exit code 3: what must be served cannot be; what binds and what would relax it is printed.
"""


def add_compile(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "compile", "decide what runs where, and write the plan folder", COMPILE_MORE
    )
    parser.add_argument("job", type=Path, metavar="JOB.toml|MODEL.onnx")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="plan folder to write"
    )
    parser.add_argument("--force", action="store_true", help="replace a plan folder that exists")
    parser.add_argument("--json", action="store_true", help="print plan.json instead of a summary")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="a fleet's plan that runs now: change as little of it as 2 %% of the objective allow",
    )
    model = parser.add_argument_group("for MODEL.onnx instead of a job file")
    model.add_argument(
        "--system", action="append", default=[], metavar="NAME[=N]", help="a system of the fleet"
    )
    model.add_argument(
        "--tier",
        action="append",
        default=[],
        metavar="TIER",
        help="a declared tier, such as gtc2026/premium; several share the fleet",
    )
    model.add_argument("--weights", default="as stored", metavar="FORMAT", help="fp8, nvfp4, bf16, ...")
    model.add_argument("--kv", default="as stored", metavar="FORMAT", help="the caches' format")
    model.add_argument("--activations", default="as stored", metavar="FORMAT")
    model.add_argument("--input-tokens", type=int, metavar="N", help="length of a prompt")
    model.add_argument("--output-tokens", type=int, default=1000, metavar="N", help="length of an answer")
    model.add_argument("--context", type=int, metavar="N", help="tokens to reserve memory for, per request")
    model.add_argument("--prefix-hit", type=float, default=0.0, metavar="SHARE", help="of a prompt, cached")
    model.add_argument("--batch", type=int, action="append", default=[], metavar="N", help="only this batch")
    add_library(parser)
    parser.set_defaults(run=_compile)


def _compile(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc.compiler import Options, compile_fleet, compile_job  # as in inspect

    job, root = _job(options)
    with screen.progress() as tell:
        settings = Options(library=options.library, force=options.force, tell=tell)
        plan: Plan | FleetPlan
        if job.shares_fleet:
            present = None if options.keep is None else open_fleet(options.keep)
            plan = compile_fleet(job, root, options.output, settings, present)
        elif options.keep is not None:
            raise JobError("--keep is for tiers that share a fleet; this job's one tier has no demand.")
        else:
            plan = compile_job(job, root, options.output, settings)
    if options.json:
        sys.stdout.write(dump_plan(plan).decode())
        return 0
    warn(screen, plan.warnings)
    folder, first = options.output, options.output
    if isinstance(plan, FleetPlan):
        screen.show(*report.fleet_summary(plan))
        first = folder / next(r.plan for r in plan.replicas if r.plan)
    else:
        screen.show(*report.summary(plan))
    screen.say(f"Wrote {folder}. Next: disaggc explain {folder}; disaggc verify {first}")
    return 0


def _job(options: argparse.Namespace) -> tuple[Job, Path]:
    """The job, and the folder that its paths are relative to."""
    if options.job.suffix == ".toml":
        if options.system or options.tier:
            raise JobError("A job file names its own fleet and tier. Leave --system and --tier out.")
        return load_job(options.job), options.job.parent
    if not options.system or not options.tier:
        raise JobError(
            "A model needs a fleet and a tier: add --system NAME[=N] and --tier NAME, or give a JOB.toml."
        )
    tiers = tuple(
        TierSpec(
            like=name,
            context_tokens=options.context,
            input_tokens=options.input_tokens,
            output_tokens=options.output_tokens,
            prefix_hit=options.prefix_hit,
        )
        for name in options.tier
    )
    model = ModelSpec(str(options.job.name), options.weights, options.kv, options.activations)
    job = Job(model, _fleet(options.system), tiers, search=SearchSpec(batch=tuple(options.batch)))
    return job, options.job.parent


def _fleet(systems: Sequence[str]) -> dict[str, int]:
    fleet: dict[str, int] = {}
    for text in systems:
        name, _, count = text.partition("=")
        if count and not count.isdigit():
            raise JobError(f"--system {text}: '{count}' is no number of systems. Write {name}=2.")
        fleet[name] = fleet.get(name, 0) + int(count or 1)
    return fleet
