"""A byte ring in shared memory, from one process to one other: records in, records out, in order.

Two counters, a cache line apart, say how many bytes were ever written and read; each has one writer.
A record never wraps: where it does not fit before the end, a mark sends the reader to the start.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence

from disaggc.runtime.tensors import Array

CONTROL_BYTES = 128
WRITTEN, _READ = 0, 8
"""64-bit words, 64 bytes apart: which of the counters says what was written, and what was read."""
_PREFIX = 8
_SKIP = (1 << 64) - 1

_lock = threading.Lock()


def fence() -> None:
    """Order memory accesses before this against those after it: a lock is a full barrier."""
    with _lock:
        pass


class Ring:
    """Both ends of a ring; a process uses one of them.

    The writer keeps what it last saw of the reader's counter: that only grows, so what fitted then fits now.
    """

    def __init__(self, memory: Array) -> None:
        """Look at a ring that lies in ``memory`` (uint8); all zeros is an empty one."""
        self.counters = memory[:CONTROL_BYTES].data.cast("Q")
        """What was ever written and read. Nothing is to be read while ``WRITTEN`` is what is ``taken``."""
        self._data = memory[CONTROL_BYTES:].data
        self._words = self._data.cast("Q")
        self._size = len(self._data)
        self._position = self.counters[WRITTEN]
        self.taken = self._seen = self.counters[_READ]
        self.largest = self._size // 4 - _PREFIX
        """Bytes of the largest record."""

    def clear(self) -> None:
        """Empty it; nobody may be at either end meanwhile."""
        self.counters[WRITTEN] = self.counters[_READ] = 0
        self.restart()

    def restart(self) -> None:
        """Take the counters as they are, after somebody cleared the ring."""
        self._position = self.counters[WRITTEN]
        self.taken = self._seen = self.counters[_READ]

    def reserve(self, size: int) -> memoryview | None:
        """Room for a record of ``size`` bytes, not larger than ``largest``; None if it is full."""
        needed = _PREFIX + _aligned(size)
        offset = self._position % self._size
        skipped = self._size - offset if offset + needed > self._size else 0
        free = self._size - (self._position - self.counters[_READ])
        if free < skipped + needed:
            return None
        if skipped:
            self._words[offset // 8] = _SKIP
            self._position += skipped
            offset = 0
        self._words[offset // 8] = size
        self._position += needed
        return self._data[offset + _PREFIX : offset + _PREFIX + size]

    def publish(self) -> None:
        """Let the reader see what was reserved and filled."""
        fence()
        self.counters[WRITTEN] = self._position

    def post(self, fields: struct.Struct, *values: int) -> bool:
        """Write a record of whole words, let the reader see it, and pass a fence; False if it is full.

        The same as ``reserve``, filling and ``publish``, for what is sent all the time.
        """
        position, offset, end = self._position, self._position % self._size, _PREFIX + fields.size
        if offset + end > self._size or position + end - self._seen > self._size:
            self._seen = self.counters[_READ]
            return self._post_anew(fields, values)
        self._words[offset // 8] = fields.size
        fields.pack_into(self._data, offset + _PREFIX, *values)
        with _lock:  # see ``fence``
            pass
        self._position = self.counters[WRITTEN] = position + end
        with _lock:
            pass
        return True

    def _post_anew(self, fields: struct.Struct, values: Sequence[int]) -> bool:
        room = self.reserve(fields.size)
        if room is None:
            return False
        fields.pack_into(room, 0, *values)
        self.publish()
        fence()
        return True

    def take(self, fields: struct.Struct) -> tuple[int, ...] | None:
        """The next record, if it is as long as one that ``post`` writes: its fields; None otherwise.

        The same as ``peek``, reading and ``release``.
        """
        taken = self.taken
        if self.counters[WRITTEN] == taken:
            return None
        with _lock:
            pass
        offset = taken % self._size
        if self._words[offset // 8] != fields.size:
            return None
        values = fields.unpack_from(self._data, offset + _PREFIX)
        self.taken = self.counters[_READ] = taken + _PREFIX + fields.size
        return values

    def peek(self) -> memoryview | None:
        """The next record, until ``release``; None if there is none."""
        if self.counters[WRITTEN] == self.taken:
            return None
        fence()
        offset = self.taken % self._size
        size = self._words[offset // 8]
        if size == _SKIP:
            self.taken += self._size - offset
            offset, size = 0, self._words[0]
        self.taken += _PREFIX + _aligned(size)
        return self._data[offset + _PREFIX : offset + _PREFIX + size]

    def release(self) -> None:
        """Give the room of all records that were read back to the writer."""
        self.counters[_READ] = self.taken


def _aligned(size: int) -> int:
    return (size + 7) // 8 * 8
