"""disaggc compare: one input varied."""

from __future__ import annotations

import argparse
from pathlib import Path

from disaggc import __version__, report
from disaggc.commands.arguments import Commands, add_command, add_library
from disaggc.errors import JobError
from disaggc.plans import (
    load_job,
)

COMPARE_MORE = """\
What would one more rack bring? Where does a longer prompt stop to fit?

  disaggc compare JOB.toml --with groq3-lpx=0,1,2,4
  disaggc compare JOB.toml --with lpx=0,1,2,4,8
  disaggc compare JOB.toml --with premium.price_usd_per_mtok=15,30,45
"""


def add_compare(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "compare", "vary one input of a job, and tabulate the best plans", COMPARE_MORE
    )
    parser.add_argument("job", type=Path, metavar="JOB.toml")
    parser.add_argument(
        "--with",
        dest="sweep",
        required=True,
        metavar="NAME=A,B,...",
        help="a system of the fleet, or one word of its name (0 leaves it out), a number of all tiers, or "
        "TIER.NUMBER; and its values",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.html", help="draw it, too: one page that opens offline"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_library(parser)
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace, screen: report.Screen) -> int:
    return compared(options, _sweep(options.sweep), options.output, screen)


def compared(
    options: argparse.Namespace,
    sweep: tuple[str, list[float]],
    output: Path | None,
    screen: report.Screen,
) -> int:
    """The best plan of a job for each value of one input, drawn into ``output`` if there is one."""
    from disaggc.compiler import Options, compare  # as in inspect

    name, values = sweep
    with screen.progress() as tell:
        settings = Options(library=options.library, tell=tell)
        found = compare(load_job(options.job), options.job.parent, name, values, settings)
    data = report.comparison_data(name, found)
    if output is not None:
        text = report.sweep_page(name, data["rows"], f"disaggc {__version__}")
        report.write_page(text, output)
    if options.json:
        screen.show_json(data)
    else:
        screen.show(*report.comparison(name, found))
        if output is not None:
            screen.say(f"Wrote {output}.")
    return 0 if any(row.best is not None for row in found) else 3


def _sweep(text: str) -> tuple[str, list[float]]:
    name, _, values = text.partition("=")
    try:
        return name, [float(value) for value in values.split(",")]
    except ValueError as error:
        raise JobError(f"--with {text}: write a name and numbers, such as groq3-lpx=0,1,2.") from error
