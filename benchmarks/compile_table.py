"""Seconds and peak memory of ``disaggc inspect`` and ``disaggc compile``, each in a process of its own.

    python benchmarks/compile_table.py ../shared/models            every model below a folder
    python benchmarks/compile_table.py MODEL.onnx ... --runs 3

Files that end in .xz are unpacked to a temporary folder first; that is not timed.
"""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FLEET = ("--system", "vr-nvl72", "--system", "groq3-lpx=2", "--tier", "gtc2026/high")
FORMATS = ("--weights", "fp8", "--kv", "fp8", "--activations", "bf16", "--prefix-hit", "0.95")

COUNT = """
import pathlib, sys
from disaggc.frontends import open_model
print(len(open_model(pathlib.Path(sys.argv[1])).graph.node))
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One process: wall-clock seconds, peak resident megabytes, exit code."""

    seconds: float
    megabytes: float
    code: int


def main() -> None:
    """Print the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL|FOLDER")
    parser.add_argument("--runs", type=int, default=1, help="runs of each, of which the median is printed")
    options = parser.parse_args()
    print(f"{'model':44} {'ops':>8} {'inspect s':>10} {'MB':>7} {'compile s':>10} {'MB':>7}  plan")
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in unpacked(options.models, Path(scratch)):
            print_row(name, path, Path(scratch) / "plan", options.runs)


def print_row(name: str, path: Path, output: Path, runs: int) -> None:
    """Measure one model and print its row."""
    command = [sys.executable, "-m", "disaggc.cli"]
    inspect = [measure([*command, "inspect", str(path)]) for _ in range(runs)]
    target = ["-o", str(output), "--force"]
    whole = [measure([*command, "compile", str(path), *FLEET, *FORMATS, *target]) for _ in range(runs)]
    code = whole[0].code
    told = {0: mode_of(output), 3: "no plan meets the tier"}.get(code, f"exit code {code}")
    print(
        f"{name:44} {count_of(path):>8,} {seconds(inspect):>10.2f} {megabytes(inspect):>7,.0f} "
        f"{seconds(whole):>10.2f} {megabytes(whole):>7,.0f}  {told}",
        flush=True,
    )
    shutil.rmtree(output, ignore_errors=True)


def measure(command: Sequence[str]) -> Measured:
    """Run a command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own
    _, status, usage = os.wait4(process.pid, 0)
    return Measured(time.perf_counter() - start, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status))


def seconds(measured: Sequence[Measured]) -> float:
    """Median seconds."""
    return statistics.median(m.seconds for m in measured)


def megabytes(measured: Sequence[Measured]) -> float:
    """Median peak megabytes."""
    return statistics.median(m.megabytes for m in measured)


def mode_of(output: Path) -> str:
    """The mode of the plan just written."""
    from disaggc.plans import open_plan

    return open_plan(output).mode if (output / "plan.json").is_file() else ""


def count_of(path: Path) -> int:
    """How many ops a model has; counted in a process of its own, as a child starts at its parent's peak."""
    command = [sys.executable, "-c", COUNT, str(path)]
    found = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - our own
    return int(found.stdout)


def unpacked(models: Sequence[Path], scratch: Path) -> Iterator[tuple[str, Path]]:
    """Every model that is named or lies below a named folder, with a name for its row."""
    for named in models:
        found = sorted((*named.rglob("*.onnx"), *named.rglob("*.onnx.xz"))) if named.is_dir() else [named]
        for path in found:
            name = str(path.relative_to(named)) if named.is_dir() else path.name
            label = name.removesuffix(".xz").removesuffix("/model.onnx").removesuffix(".onnx")
            yield label, unpack(path, scratch) if path.suffix == ".xz" else path


def unpack(path: Path, scratch: Path) -> Path:
    """An .xz file's content, in ``scratch``."""
    target = scratch / path.stem
    with lzma.open(path) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return target


if __name__ == "__main__":
    main()
