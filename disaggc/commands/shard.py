"""disaggc shard: a plan whose tensor and expert parallel networks are carried out by shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from disaggc import report
from disaggc.commands.arguments import Commands, add_command

SHARD_MORE = """\
Writes a plan folder in which each shard of a pool is an executor of its own, with its share of the
weights; its partial sums travel and are added like any activation. It runs and verifies like any plan.

  disaggc shard out -o shards                                  by the plan's own tp and ep
  disaggc shard out -o shards --degree groq3-lpx=ep2           experts over 2 executors
  disaggc verify shards --on processes                         against the uncut model

tp cuts every network along its inner dimension (columns, then rows); ep gives each shard whole experts,
and cuts what else there is by tp. See docs/sharding.md.
"""


def add_shard(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "shard", "cut a plan's feed-forward networks into shards that run", SHARD_MORE
    )
    parser.add_argument("plan", type=Path, metavar="DIR", help="plan folder")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--degree",
        action="append",
        default=[],
        metavar="POOL=tpN|epN",
        help="cut this pool into N shards; repeatable; default: as the plan says",
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="the model's folder, if it moved")
    parser.add_argument("--force", action="store_true", help="replace a plan folder that exists")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_shard)


def _shard(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc.backends.sharding import parse_degrees, share_out  # as in inspect

    degrees = parse_degrees(options.degree)
    plan = share_out(options.plan, options.output, degrees, options.model, options.force)
    if options.json:
        screen.show_json(report.sharding_data(plan))
        return 0
    for line in report.sharding_lines(plan):
        screen.say(line)
    screen.say(f"Wrote {options.output}. Next: disaggc verify {options.output}")
    return 0
