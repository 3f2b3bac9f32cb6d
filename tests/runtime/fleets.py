"""Plans over processes for tests: a real model, cut over two pools, and what its executors run as."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from disaggc.plans import Plan
from disaggc.runtime import Deployment, Execution
from disaggc.runtime.execution import instances_of
from disaggc.runtime.processes import Processes

from .splitting import contiguous, read, split

PROMPTS = [[5, 7, 11, 13, 2], [1, 2, 3], [9, 8, 7, 6, 5], [4, 4]]


def cut(path: Path, folder: Path, prefill_pool: str | None = None, parts: int = 4) -> Plan:
    """A plan of alternating stages on 'attention' and 'experts'."""
    return split(path, folder, contiguous(read(path), parts, seed=3), prefill_pool=prefill_pool)


@contextmanager
def fleet(
    plan: Plan, folder: Path, path: Path, execution: Execution
) -> Iterator[tuple[Deployment, Processes]]:
    """The plan on processes, and the transport below."""
    processes = Processes(plan, folder, path.parent, instances_of(plan, execution), 1, execution)
    with Deployment(plan, processes, execution) as deployment:
        yield deployment, processes


def on_processes(
    instances: Mapping[str, int] | None = None, traced: bool = False, deadline_s: float = 30.0
) -> Execution:
    """Processes with two micro-batches of at most two requests for each instance."""
    return Execution(
        on="processes",
        instances=instances or {},
        micro_batch=2,
        micro_batches=2,
        traced=traced,
        deadline_s=deadline_s,
    )


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked about does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return _answers(pid) if not Path("/proc/self/stat").exists() else False
    return state != "Z"


def all_gone(pids: list[int], patience_s: float = 20.0) -> bool:
    """Whether processes end within our patience."""
    end = time.monotonic() + patience_s
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
