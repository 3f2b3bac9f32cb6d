"""disaggc calibrate: this machine as a declared system."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disaggc import report
from disaggc.commands.arguments import Commands, add_command
from disaggc.errors import JobError, OutputError

if TYPE_CHECKING:
    from disaggc.calibration import Calibrated

DEFAULT = Path("calibrated/targets/systems/here.toml")

CALIBRATE_MORE = """\
Times small graphs by onnxruntime, and a small decoder whole, cut, and cut over two processes; writes one
executor of this machine as a system that jobs can name. Let nothing else run meanwhile.

  disaggc calibrate --here
  disaggc targets here --library calibrated
  disaggc compile JOB.toml --library calibrated -o out             with here = 1 in its [fleet]

docs/calibrate.md says what is measured how, and how far predictions were off.
"""


def add_calibrate(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "calibrate", "measure this machine, and declare it as a system", CALIBRATE_MORE
    )
    parser.add_argument("--here", action="store_true", help="measure the machine that this runs on")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=DEFAULT,
        metavar="FILE.toml",
        help=f"declaration to write; the system is called as the file (default: {DEFAULT})",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of one executor")
    parser.add_argument(
        "--seconds", type=float, default=18.0, metavar="S", help="how long to measure (default: 18)"
    )
    parser.add_argument("--force", action="store_true", help="declare a machine that is too busy to measure")
    parser.add_argument("--json", action="store_true", help="for programs: every reading, fit and figure")
    parser.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace, screen: report.Screen) -> int:
    if not options.here:
        raise JobError("Only the machine that this runs on can be measured: disaggc calibrate --here.")
    if options.output.suffix != ".toml":
        raise JobError(f"-o {options.output}: a declaration is a .toml file, called as the system.")
    from disaggc.calibration import Options, calibrate, toml_of  # as in inspect

    with screen.progress() as tell:
        name, threads = options.output.stem, options.threads
        found = calibrate(Options(name, threads, options.seconds, force=options.force, tell=tell))
    _write(options.output, toml_of(found.system))
    if options.json:
        screen.show_json(_data(found, options.output))
        return 0
    screen.show(report.system_table(found.system))
    if not found.machine.is_quiet:
        apart = f"repeats lie {found.machine.spread:.0%} apart"
        screen.warn(f"The machine is not quiet: {apart}; the declaration says so.")
    screen.say(f"Wrote {options.output}. {_next(options.output)}")
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Cannot write '{path}': {error.strerror}.") from error


def _next(path: Path) -> str:
    """How a job comes to use it."""
    name = path.stem
    if path.parent.parts[-2:] != ("targets", "systems"):
        return (
            f"Put it into targets/systems/ of a folder DIR, and compile with --library DIR --system {name}."
        )
    library = path.parents[2]
    return f"Next: disaggc compile MODEL.onnx --library {library} --system {name} --tier TIER -o out"


def _data(found: Calibrated, path: Path) -> dict[str, Any]:
    return {
        "output": str(path),
        "quiet": found.machine.is_quiet,
        "machine": dataclasses.asdict(found.machine),
        "readings": [dataclasses.asdict(reading) for reading in found.readings],
        "kernels": dataclasses.asdict(found.kernels),
        "messages": dataclasses.asdict(found.messages),
        "system": report.system_data(found.system),
    }
