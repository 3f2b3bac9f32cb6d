"""disaggc diff: what changed between two plans."""

from __future__ import annotations

import argparse
from pathlib import Path

from disaggc import report
from disaggc.commands.arguments import Commands, add_command
from disaggc.plans import (
    open_plan,
)


def add_diff(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "diff", "say what changed between two plans, and what it costs to move")
    parser.add_argument("before", type=Path, metavar="DIR1", help="the plan that runs")
    parser.add_argument("after", type=Path, metavar="DIR2", help="the plan that shall run")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_diff)


def _diff(options: argparse.Namespace, screen: report.Screen) -> int:
    before, after = open_plan(options.before), open_plan(options.after)
    rates = {**report.link_rates(options.before), **report.link_rates(options.after)}
    found = report.difference(before, after, rates)
    if options.json:
        screen.show_json(report.difference_data(found))
    else:
        screen.show(*report.difference_tables(found))
    return 0
