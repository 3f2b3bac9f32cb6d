"""disaggc report: a plan as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from disaggc import report
from disaggc.commands.arguments import Commands, add_command, add_library
from disaggc.plans import (
    is_fleet,
    open_fleet,
    open_plan,
)
from disaggc.targets import load_library


def add_report(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "report", "draw a plan, or a fleet's: one HTML file that opens offline")
    parser.add_argument("plan", type=Path, metavar="DIR", help="plan folder")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.html", help="default: report.html beside plan.json"
    )
    parser.add_argument("--json", action="store_true", help="say for programs what was written")
    add_library(parser)
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace, screen: report.Screen) -> int:
    known = load_library(options.library).sources
    if is_fleet(options.plan):
        text = report.fleet_page(open_fleet(options.plan), options.plan, known)
    else:
        text = report.plan_page(open_plan(options.plan), options.plan, known)
    output: Path = options.output or options.plan / "report.html"
    report.write_page(text, output)
    if options.json:
        screen.show_json({"path": str(output), "bytes": len(text.encode())})
    else:
        screen.say(f"Wrote {output} ({report.amount(len(text.encode()), 'B')}).")
    return 0
