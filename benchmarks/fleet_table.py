"""Five tiers on a mixed fleet with a 1T-class mixture of experts: patterns considered, seconds, gap.

    python benchmarks/fleet_table.py [JOB.toml ...]

One process a job, the whole way from the ONNX file to the plan folder; by default benchmarks/fleet_1t.toml.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from disaggc.compiler import Options, compile_fleet
from disaggc.plans import FleetPlan, load_job

HERE = Path(__file__).resolve().parent
COLUMNS = ("kinds", "patterns", "solves", "seconds", "MB", "gap")
WIDTHS = (14, 16, 6, 8, 6, 8)


def main() -> int:
    """Print the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("job", type=Path, nargs="*", default=[HERE / "fleet_1t.toml"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(_row(options.job[0]))
        return 0
    heads = (f"{name:>{width}}" for name, width in zip(COLUMNS, WIDTHS, strict=True))
    print(f"{'job':24} {' '.join(heads)}  status")
    for job in options.job:
        command = [sys.executable, __file__, "--one", str(job)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ourselves
        print(done.stdout, end="", flush=True)
    return 0


def _row(path: Path) -> str:
    job = load_job(path)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        plan = compile_fleet(job, path.parent, Path(folder) / "out", Options())
        seconds = time.perf_counter() - start
    return _told(path.stem, plan, seconds)


def _told(name: str, plan: FleetPlan, seconds: float) -> str:
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    c = plan.certificate
    kinds = f"{len(plan.replicas)} in {len(plan.tiers)} tiers"
    return (
        f"{name:24} {kinds:>14} {c.candidates:16,} {c.solved:6} {seconds:8.2f} {megabytes:6,.0f} "
        f"{c.gap:8.3%}  {c.status}"
    )


if __name__ == "__main__":
    sys.exit(main())
