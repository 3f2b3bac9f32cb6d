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
HEADER = (
    f"{'job':24} {'kinds':>14} {'patterns':>16} {'solves':>6} {'seconds':>8} {'MB':>6} {'gap':>8}  status"
)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", type=Path, nargs="*", default=[HERE / "fleet_1t.toml"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(_row(options.job[0]))
        return 0
    print(HEADER)
    for job in options.job:
        command = [sys.executable, __file__, "--one", str(job)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)  # noqa: S603
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
        f"{name:24} {kinds:>14} {c.candidates:16,} {c.solved:6} {seconds:8.2f} {megabytes:6,.0f} {c.gap:8.3%}  "
        f"{c.status}"
    )


if __name__ == "__main__":
    sys.exit(main())
