"""disaggc explain: why a plan is as it is; disaggc targets: the declared machines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.text import Text

from disaggc import report
from disaggc.commands.arguments import Commands, add_command, add_library, kept_job, opened_fleet, warn
from disaggc.commands.compare import compared
from disaggc.errors import JobError
from disaggc.plans import (
    Plan,
    dump_plan,
    is_fleet,
    load_job,
    open_fleet,
    open_plan,
    varied,
)
from disaggc.targets import load_library


def add_explain(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "explain", "say why a plan is as it is: memory, stages, alternatives, rejections"
    )
    parser.add_argument("plan", type=Path, metavar="DIR", help="plan folder")
    parser.add_argument("--why", metavar="PART", help="why it is where it is: attention, ffn, or a role")
    parser.add_argument("--why-not", metavar="MODE", help="afd, pd, colocated, or (part of) a mode's name")
    parser.add_argument(
        "--what-binds",
        nargs="?",
        const="",
        metavar="TIER",
        help="what limits it (of a fleet, that tier of it), and what room there is; after DIR",
    )
    parser.add_argument("--one-more", metavar="SYSTEM", help="what one more of it would bring")
    parser.add_argument("--tier", metavar="TIER", help="of a fleet, ask about this one alone")
    parser.add_argument(
        "--job", type=Path, metavar="JOB.toml", help="the job, for --one-more; a fleet's folder has its own"
    )
    parser.add_argument("--json", action="store_true", help="print plan.json, or the answers")
    add_library(parser)
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace, screen: report.Screen) -> int:
    tier = _asked_tier(options)
    if is_fleet(options.plan):
        return _explain_fleet(options, tier, screen)
    plan: Plan = open_plan(options.plan)
    _check_tier(plan, tier)
    if options.one_more:
        return _one_more(options, screen)
    answers = _answers(options, plan)
    if answers and options.json:
        screen.show_json({"answers": answers})
        return 0
    if answers:
        screen.show(*(report.wrapped(sentence) for found in answers.values() for sentence in found))
        return 0
    if options.json:
        sys.stdout.write(dump_plan(plan).decode())
        return 0
    screen.show(*report.explain(plan))
    warn(screen, plan.warnings)
    return 0


def _asked_tier(options: argparse.Namespace) -> str:
    """The tier that is asked about; '' for all."""
    named = {name for name in (options.tier, options.what_binds) if name}
    if len(named) > 1:
        raise JobError(
            f"--tier {options.tier} and --what-binds {options.what_binds} name two. Leave one out."
        )
    if options.tier and not (options.why or options.why_not or options.what_binds is not None):
        raise JobError("--tier narrows a question. Add --why PART, --why-not MODE or --what-binds.")
    return next(iter(named), "")


def _explain_fleet(options: argparse.Namespace, tier: str, screen: report.Screen) -> int:
    """A fleet tells all of itself, or answers for one tier or each."""
    if options.one_more:
        return _fleet_one_more(options, screen)
    if options.why or options.why_not or options.what_binds is not None:
        return _fleet_answers(options, tier, screen)
    plan = open_fleet(options.plan)
    if options.json:
        sys.stdout.write(dump_plan(plan).decode())
        return 0
    screen.show(*report.fleet_explain(plan))
    warn(screen, plan.warnings)
    return 0


def _fleet_answers(options: argparse.Namespace, name: str, screen: report.Screen) -> int:
    fleet = opened_fleet(options.plan)
    found: dict[str, list[str]] = {}
    for tier in report.tiers_named(fleet.plan, name):
        if options.why:
            found[f"why {options.why} for {tier.name}"] = report.fleet_why(fleet, tier, options.why)
        if options.why_not:
            found[f"why not {options.why_not} for {tier.name}"] = report.fleet_why_not(
                fleet, tier, options.why_not
            )
        if options.what_binds is not None:
            found[f"what binds {tier.name}"] = report.fleet_what_binds(fleet, tier)
    if options.json:
        screen.show_json({"answers": found})
        return 0
    for question, sentences in found.items():
        screen.show(Text(question, style="bold"), *map(report.wrapped, sentences), "")
    return 0


def _fleet_one_more(options: argparse.Namespace, screen: report.Screen) -> int:
    """The fleet solved anew with one more system, beside the plan; with --job, both."""
    from disaggc.compiler import Options, planned_fleet  # as in inspect

    load_library(options.library).system(options.one_more)  # refuses a name that nobody declared
    plan = open_fleet(options.plan)
    job, root = (
        kept_job(options.plan, plan) if options.job is None else (load_job(options.job), options.job.parent)
    )
    more = varied(job, options.one_more, job.fleet.get(options.one_more, 0) + 1)
    with screen.progress() as tell:
        settings = Options(library=options.library, tell=tell)
        before = plan if options.job is None else planned_fleet(job, root, settings)
        after = planned_fleet(more, root, settings)
    found = report.fleet_growth(before, after, options.one_more)
    if options.json:
        screen.show_json(report.growth_data(found))
    else:
        screen.show(*report.growth_tables(found))
    return 0


def _answers(options: argparse.Namespace, plan: Plan) -> dict[str, list[str]]:
    """Question to sentences, for each that was asked."""
    found: dict[str, list[str]] = {}
    if options.why:
        found[f"why {options.why}"] = report.why(plan, options.why)
    if options.why_not:
        found[f"why not {options.why_not}"] = report.why_not(plan, options.why_not)
    if options.what_binds is not None:
        found["what binds"] = report.what_binds(plan)
    return found


def _check_tier(plan: Plan, name: str) -> None:
    """A plan of one tier answers for that alone."""
    tier = plan.goal.tier
    if name not in ("", tier, tier.rpartition("/")[2]):
        raise JobError(f"The plan is for tier '{tier}', not '{name}'. Leave the name out.")


def _one_more(options: argparse.Namespace, screen: report.Screen) -> int:
    """Only the compiler can tell: run it where the job is given, else say how."""
    system = options.one_more
    load_library(options.library).system(system)  # refuses a name that nobody declared
    if options.job is not None:
        count = load_job(options.job).fleet.get(system, 0)
        return compared(options, (system, [float(count), float(count + 1)]), None, screen)
    count = report.fleet_counts(options.plan).get(system, 0)
    command = f"disaggc compare JOB.toml --with {system}={count},{count + 1}"
    if options.json:
        screen.show_json({"command": command})
    else:
        screen.say(f"That takes the compiler: {command}, or add --job JOB.toml here.")
    return 0


def add_targets(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "targets", "list the declared machines, or show one with its sources")
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_library(parser)
    parser.set_defaults(run=_targets)


def _targets(options: argparse.Namespace, screen: report.Screen) -> int:
    library = load_library(options.library)
    system = library.system(options.name) if options.name is not None else None
    if options.json:
        screen.show_json(report.systems_data(library) if system is None else report.system_data(system))
    else:
        screen.show(report.systems_table(library) if system is None else report.system_table(system))
    return 0
