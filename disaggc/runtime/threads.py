"""How many threads onnxruntime computes with.

All sessions share one pool: with a pool each, idle workers spin and 62 sessions were measured 36
times slower than one. onnxruntime makes the shared pool once a process, never changes it, and
from then on refuses sessions that do not use it. One thread needs no pool at all: a session
without workers computes on the calling thread. So the pool is made only when it is asked for.
"""

from __future__ import annotations

from contextlib import suppress

from disaggc.errors import JobError
from disaggc.runtime.engine import SessionOptions, set_global_thread_pool_sizes
from disaggc.runtime.failures import FAILURES

_shared: list[int] = []
"""Size of this process's shared pool, once there is one."""


def session_options(threads: int) -> SessionOptions:
    """Options of a session that computes with ``threads`` threads, as far as this process allows.

    The first call with more than one thread decides for the process: later ones get the pool that
    is there, whatever they ask for.

    Raises:
        JobError: ``threads`` is less than 1.
    """
    if threads < 1:
        raise JobError(f"Cannot compute with {threads} threads. Use 1 or more.")
    options = SessionOptions()
    options.log_severity_level = 4
    if threads > 1 or _shared:
        _share(threads)
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
    return options


def threads_in_effect(threads: int) -> int:
    """The number of threads that sessions opened with ``session_options(threads)`` compute with."""
    return _shared[0] if _shared else threads


def _share(threads: int) -> None:
    if _shared:
        return
    # If somebody else in this process made the pool before us, that one serves; nobody can ask its size.
    with suppress(*FAILURES):
        set_global_thread_pool_sizes(threads, 1)
    _shared.append(threads)
