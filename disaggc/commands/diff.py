"""disaggc diff: what changed between two plans, or two plans of a fleet."""

from __future__ import annotations

import argparse
from pathlib import Path

from disaggc import report
from disaggc.commands.arguments import Commands, add_command, opened_fleet
from disaggc.errors import PlanError
from disaggc.plans import is_fleet, open_fleet, open_plan


def add_diff(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "diff", "say what changed between two plans, or fleets, and what it costs to move"
    )
    parser.add_argument("before", type=Path, metavar="DIR1", help="the plan that runs")
    parser.add_argument("after", type=Path, metavar="DIR2", help="the plan that shall run")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_diff)


def _diff(options: argparse.Namespace, screen: report.Screen) -> int:
    fleets = [is_fleet(folder) for folder in (options.before, options.after)]
    if any(fleets):
        return _diff_fleets(options, fleets, screen)
    before, after = open_plan(options.before), open_plan(options.after)
    rates = {**report.link_rates(options.before), **report.link_rates(options.after)}
    found = report.difference(before, after, rates)
    if options.json:
        screen.show_json(report.difference_data(found))
    else:
        screen.show(*report.difference_tables(found))
    return 0


def _diff_fleets(options: argparse.Namespace, fleets: list[bool], screen: report.Screen) -> int:
    if not all(fleets):
        fleet, other = (options.before, options.after) if fleets[0] else (options.after, options.before)
        named = ", ".join(f"{fleet}/{r.plan}" for r in open_fleet(fleet).replicas if r.plan)
        raise PlanError(
            f"'{fleet}' is the plan of a fleet, and '{other}' that of one tier. Compare two of a kind; "
            f"of the fleet, one of its deployments: {named}."
        )
    before, after = opened_fleet(options.before), opened_fleet(options.after)
    rates: dict[str, float] = {}
    for folder, fleet in ((options.before, before), (options.after, after)):
        for replica in fleet.plan.replicas:
            if replica.plan:
                rates.update(report.link_rates(folder / replica.plan))
    found = report.fleet_difference(before, after, rates)
    if options.json:
        screen.show_json(report.fleet_difference_data(found))
    else:
        screen.show(*report.fleet_difference_tables(found))
    return 0
