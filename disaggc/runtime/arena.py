"""The memory that executors of one machine share: a board of their signs of life, rings, heaps.

It is a file without a name, handed down as an open descriptor: nobody else can open it, and the
system frees it with the last process that has it, however that process ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from itertools import permutations
from typing import TypeAlias

import numpy as np

from disaggc.errors import ExecutorError
from disaggc.runtime.messages import DRIVER, Address
from disaggc.runtime.ring import CONTROL_BYTES, Ring
from disaggc.runtime.tensors import Array

RING_BYTES = 1 << 20
HEAP_BYTES = 1 << 32
"""More than is ever sent at a time; memory is taken only as it is written."""
_LINE = 64
_FIELDS = ("beats", "work", "group", "commands", "asleep")
Signs: TypeAlias = memoryview
"""What others see of a process, 64-bit words a cache line apart; no layer over them, for speed.

``beats`` counts its rounds, ``work`` its stages and messages; ``group`` is 1 + the micro-batch that it
works on, or 0; ``commands`` counts those sent to it; ``asleep`` says that it waits for its bell.
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where what lies: the board, a ring for each ordered pair that may talk, each executor's heap."""

    addresses: tuple[Address, ...]
    ring_bytes: int = RING_BYTES
    heap_bytes: int = HEAP_BYTES

    @property
    def pairs(self) -> tuple[tuple[Address, Address], ...]:
        """Who may talk to whom: executors of unlike pools to each other, and each to the driver."""
        among = permutations(self.addresses, 2)
        return (
            *((a, b) for a, b in among if a.pool != b.pool),
            *((address, DRIVER) for address in self.addresses),
        )

    @property
    def size(self) -> int:
        """Bytes in all; what is never touched takes no memory."""
        return self._heaps + len(self.addresses) * self.heap_bytes

    @property
    def _rings(self) -> int:
        return _page_after((1 + len(self.addresses)) * len(_FIELDS) * _LINE)

    @property
    def _heaps(self) -> int:
        return _page_after(self._rings + len(self.pairs) * self._ring)

    @property
    def _ring(self) -> int:
        return CONTROL_BYTES + self.ring_bytes

    def ring(self, memory: Array, source: Address, target: Address) -> Ring:
        """The ring from one to another."""
        start = self._rings + self.pairs.index((source, target)) * self._ring
        return Ring(memory[start : start + self._ring])

    def heap(self, memory: Array, address: Address) -> Array:
        """Where an executor's tensors lie that others read."""
        start = self._heaps + self.addresses.index(address) * self.heap_bytes
        return memory[start : start + self.heap_bytes]

    def signs(self, memory: Array, address: Address) -> Signs:
        """An executor's, or the driver's, signs of life."""
        number = (DRIVER, *self.addresses).index(address)
        size = len(_FIELDS) * _LINE
        return memory[number * size : (number + 1) * size].view(np.uint64)[:: _LINE // 8].data


BEATS, WORK, GROUP, COMMANDS, ASLEEP = range(len(_FIELDS))
EPOCH = WORK
"""The driver's: counts the times that executors were lost."""


def clear(signs: Signs) -> None:
    """Nothing was seen of a process yet."""
    for field in range(len(_FIELDS)):
        signs[field] = 0


def create(layout: Layout) -> int:
    """A new file of the layout's size, without a name; its descriptor.

    Raises:
        ExecutorError: The system has no room for it.
    """
    try:
        descriptor = _nameless()
        os.ftruncate(descriptor, layout.size)
    except OSError as error:
        raise ExecutorError(
            f"The system gives no shared memory ({error.strerror}). Free some, or run with fewer instances."
        ) from error
    return descriptor


def attach(descriptor: int, layout: Layout) -> Array:
    """The memory behind a descriptor, as bytes.

    Raises:
        ExecutorError: This process may not look at so much.
    """
    try:
        return np.frombuffer(mmap.mmap(descriptor, layout.size), np.uint8)
    except OSError as error:
        raise ExecutorError(
            f"The system lets no process map {layout.size:,} bytes of shared memory ({error.strerror}). "
            f"Raise its limit on addresses (ulimit -v), or run with fewer instances."
        ) from error


def _page_after(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("disaggc", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # unlinked as soon as it is made
        return os.dup(file.fileno())
