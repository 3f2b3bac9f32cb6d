"""disaggc calibrate: this machine as a declared system."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
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
    for line in summary(found):
        screen.say(line)
    if not found.machine.is_quiet:
        apart = f"repeats lie {found.machine.apart:.0%} apart"
        screen.warn(f"The machine is not quiet: {apart}; the declaration says so.")
    screen.say(f"Wrote {options.output}. {_next(options.output)}")
    return 0


def summary(found: Calibrated) -> Iterator[str]:
    """The constants in a few lines; 'disaggc targets' shows each figure with its note."""
    kernels, messages = found.kernels, found.messages
    yield found.system.title
    yield found.machine.how
    streamed = kernels.bytes_per_s["gemm"] / 1e9
    yield (
        f"  weights: {streamed:,.1f} GB/s out of cache memory ({kernels.cache_bytes / 2**20:,.0f} MiB), "
        f"{kernels.main_bytes_per_s / 1e9:,.1f} GB/s out of main memory"
    )
    rates = ", ".join(f"{kind} {rate / 1e9:,.0f}" for kind, rate in kernels.flops_per_s.items())
    yield f"  arithmetic, GFLOPS: {rates}"
    starts = ", ".join(f"{kind} {seconds * 1e6:,.1f}" for kind, seconds in kernels.node.items())
    yield f"  start of a node, us: {starts}"
    fits = ", ".join(f"{kind} {error:.0%}" for kind, error in kernels.errors.items())
    yield f"  fits are off by (median): {fits}"
    yield f"  message in one process: {messages.local * 1e6:,.1f} us of each end"
    if messages.occupancy is not None and messages.latency is not None:
        ends, way = messages.occupancy * 1e6, messages.latency * 1e6
        asleep = way if messages.woken is None else messages.woken * 1e6
        told = f"{ends:,.1f} us of each end, {way:,.1f} us on its way ({asleep:,.1f} to one that sleeps)"
        yield f"  message between processes: {told}"
    yield f"  engine: {messages.step * 1e6:,.1f} us a step"


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
