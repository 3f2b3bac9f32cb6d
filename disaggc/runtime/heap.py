"""Room in one executor's part of the shared memory: it alone writes there, others read."""

from __future__ import annotations

import mmap

import numpy as np

from disaggc.runtime.tensors import Array

_LINE = 64
_LARGE = 1 << 20
"""Bytes from which the system gets memory back that is not used any more."""


class Heap:
    """Gives out room of powers of two, zeroed. The system gives the memory when it is first written."""

    def __init__(self, memory: Array, limit: int | None = None) -> None:
        """Take over memory, and forget what is in it.

        Args:
            memory: A part of an arena, page by page (uint8).
            limit: Bytes that may be used of it; all if left out.
        """
        self.memory = memory
        self._start = memory.ctypes.data
        self._limit = len(memory) if limit is None else min(limit, len(memory))
        self._map = _map_of(memory)
        self._at = 0 if self._map is None else self._start - np.frombuffer(self._map, np.uint8).ctypes.data
        self._sizes: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}
        self._end = 0
        self.clear()

    def take(self, size: int) -> int | None:
        """Room for so many bytes, all zero: where it begins; None if there is none left."""
        rounded = max(_LINE, 1 << (size - 1).bit_length())
        free = self._free.get(rounded)
        offset = free.pop() if free else self._fresh(rounded)
        if offset is not None:
            self._sizes[offset] = rounded
            if self._map is None or (free is not None and rounded < _LARGE):
                self.memory[offset : offset + size] = 0
        return offset

    def room(self, offset: int) -> int:
        """Bytes of what was given out there."""
        return self._sizes[offset]

    def give_back(self, offset: int) -> None:
        """Nobody reads it any more."""
        rounded = self._sizes.pop(offset)
        if rounded >= _LARGE:
            self._wipe(offset, rounded)
        self._free.setdefault(rounded, []).append(offset)

    def offset(self, address: int) -> int | None:
        """Where something lies that is at this address of the process; None if it is not here."""
        offset = address - self._start
        return offset if 0 <= offset < self._end else None

    def clear(self) -> None:
        """Nobody reads anything any more."""
        self._wipe(0, len(self.memory))
        self._sizes.clear()
        self._free.clear()
        self._end = 0

    def _fresh(self, rounded: int) -> int | None:
        """Room that was never given out; large ones begin at a page."""
        start = -(-self._end // mmap.PAGESIZE) * mmap.PAGESIZE if rounded >= _LARGE else self._end
        if start + rounded > self._limit:
            return None
        self._end = start + rounded
        return start

    def _wipe(self, offset: int, size: int) -> None:
        """Give memory back to the system, which will give zeros for it."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_REMOVE, self._at + offset, size)


def _map_of(memory: Array) -> mmap.mmap | None:
    """The file that memory is a window on, if the system can punch holes into it."""
    owner: object = memory
    while isinstance(owner, np.ndarray):
        owner = owner.base
    backing = owner.obj if isinstance(owner, memoryview) else None
    return backing if isinstance(backing, mmap.mmap) and hasattr(mmap, "MADV_REMOVE") else None
