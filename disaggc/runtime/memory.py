"""Memory that an executor may take, and what is said when there is no more.

The limit is the kernel's on private memory that is written (RLIMIT_DATA): caches, activations, the
interpreter. What lies in shared memory for others to read is bounded apart, and is part of the limit.
Weights are mapped from their files, and do not count.
"""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import suppress
from pathlib import Path

from disaggc.errors import JobError, OutOfMemoryError

NO_MEMORY = 112
"""Exit code of an executor that cannot even say that it has no memory."""
CURE = (
    "Run shorter requests or fewer at a time (--micro-batch, --micro-batches, --kv-tokens), or give "
    "executors more memory (--memory-limit, or a larger machine)."
)

_SHARED_PART = 8
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 18
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


class NoRoomError(OutOfMemoryError):
    """There is no room for what another executor sends; ``group`` is the micro-batch that it is for."""

    def __init__(self, group: int, nbytes: int) -> None:
        super().__init__(no_memory(f"a message of {nbytes:,} bytes from another executor"))
        self.group = group


def no_memory(what: str) -> str:
    """What there is no memory for, and the cure."""
    return f"There is no memory for {what}. {CURE}"


def out_of_memory(error: MemoryError, where: str) -> OutOfMemoryError:
    """The error that numpy or Python raise, told in our own terms.

    Args:
        error: It; numpy's says the size and the shape.
        where: What was being done.
    """
    text = str(error).rstrip(".")
    told = f" ({text[0].lower()}{text[1:]})" if text else ""
    return OutOfMemoryError(no_memory(f"{where}{told}"))


def bytes_of(text: str) -> int:
    """Bytes that '512M' or '2 GiB' stand for; units are powers of 1024.

    Raises:
        JobError: It is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if size < 1:
        raise JobError(f"--memory-limit '{text}' is no size. Write bytes or a unit, such as 512M or 2G.")
    return size


def check_bound(memory_bytes: int) -> None:
    """Refuse a limit that this system would not keep.

    Raises:
        JobError: It has no such limit.
    """
    if memory_bytes and sys.platform != "linux":
        raise JobError("--memory-limit needs Linux, which limits what a process writes. Run without it.")


def shared_part(memory_bytes: int) -> int | None:
    """Of a limit, what may lie in shared memory; None for no limit."""
    return memory_bytes // _SHARED_PART if memory_bytes else None


def bound(memory_bytes: int, shared_bytes: int = 0) -> None:
    """Let this process allocate no more than this; 0 for no limit.

    Args:
        memory_bytes: The limit.
        shared_bytes: Part of it that the process may have in shared memory.

    Raises:
        JobError: It has more already, or the system keeps no such limit.
    """
    check_bound(memory_bytes)
    if not memory_bytes:
        return
    already = taken()
    if already > memory_bytes:
        raise JobError(
            f"--memory-limit {_mib(memory_bytes)}M is too little: an executor takes {_mib(already)} MiB "
            f"before it holds anything. Give it more."
        )
    import resource  # absent on systems that were refused above

    private_bytes = max(already, memory_bytes - shared_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (private_bytes, private_bytes))
    _give_back_at_once()


def _give_back_at_once() -> None:
    """Let glibc hand every large buffer back as soon as it is freed, or a long prompt's are kept for ever.

    By itself it learns from each that is freed to keep ever larger ones, of up to 32 MiB.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def taken(pid: int | str = "self") -> int:
    """Bytes of private memory that a process may write, as the kernel counts them; 0 if it does not say."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return 0


def _mib(nbytes: int) -> int:
    return -(-nbytes // (1 << 20))
