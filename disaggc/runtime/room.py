"""How many tokens' caches this machine has room for: a plan's budget is that of other machines."""

from __future__ import annotations

import os
import re
from pathlib import Path

from disaggc.plans import Plan
from disaggc.runtime.states import live_bytes

_GROUP = Path("/sys/fs/cgroup")


def bytes_per_token(plan: Plan) -> int:
    """What the caches of one more token take, as they are stored here."""
    growing = [state for state in plan.states if state.axis is not None]
    return sum(live_bytes(state, {"batch": 1, "capacity": 1}, 1) for state in growing)


def tokens_that_fit(plan: Plan, share: float) -> int | None:
    """Tokens whose caches fit into a share of the memory that is free; None if that is not known.

    Args:
        plan: The plan.
        share: Of the free memory.
    """
    free, each = free_bytes(), bytes_per_token(plan)
    return max(int(free * share / each), 1) if free is not None and each else None


def free_bytes() -> int | None:
    """Memory that this process may still have, by the system and by its control group (version 2)."""
    limits = [found for found in (_of_system(), _of_group()) if found is not None]
    return min(limits, default=None)


def _of_system() -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    if found is not None:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _of_group() -> int | None:
    most, now = (_read(_GROUP / name).strip() for name in ("memory.max", "memory.current"))
    return max(int(most) - int(now), 0) if most.isdigit() and now.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
