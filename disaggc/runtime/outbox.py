"""Tensors that an executor lets others read where they lie, and who still may: nothing of them is copied.

Room is held for a micro-batch until this executor is done with it and everybody who was sent any of it
has said the same. Within the micro-batch a tensor is written again in the next step: a step begins
only when nobody is at work on the last one (see ``program``).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from disaggc.runtime.engine import OrtValue
from disaggc.runtime.heap import Heap
from disaggc.runtime.messages import Address
from disaggc.runtime.tensors import Array, nbytes_of, over


class Sharing(Protocol):
    """Where tensors may lie so that other executors can read them."""

    def tensor(self, group: int, shape: Sequence[int], number: int) -> OrtValue | None:
        """A tensor of zeros for others to read, until the micro-batch is over.

        Args:
            group: The micro-batch.
            shape: Its extents.
            number: Its element type's in onnx.proto.

        Returns:
            It; None if there is no such place, or no room.
        """

    def is_shared(self, value: OrtValue) -> bool:
        """Whether a tensor lies in shared memory, whoever's: it is there until its micro-batch is over."""


class Apart:
    """No memory is shared."""

    def tensor(self, group: int, shape: Sequence[int], number: int) -> OrtValue | None:  # noqa: ARG002
        """None; see ``Sharing``."""
        return None

    def is_shared(self, value: OrtValue) -> bool:  # noqa: ARG002
        """False; see ``Sharing``."""
        return False


@dataclass(slots=True)
class _Lent:
    """What is held for a micro-batch.

    Attributes:
        offsets: All room.
        slots: Room that is filled again in each step, by what for.
        readers: Who was sent any of it.
        done: Who will read nothing of it any more.
        is_over: Whether this executor writes nothing of it any more.
    """

    offsets: set[int] = field(default_factory=set)
    slots: dict[Hashable, int] = field(default_factory=dict)
    readers: set[Address] = field(default_factory=set)
    done: set[Address] = field(default_factory=set)
    is_over: bool = False


class Outbox:
    """One executor's; see ``Sharing`` for what stages see of it."""

    def __init__(self, heap: Heap, others: Collection[Array]) -> None:
        """Begin with nothing.

        Args:
            heap: This executor's own room.
            others: Everybody else's.
        """
        self._heap = heap
        self._others = [(other.ctypes.data, other.ctypes.data + len(other)) for other in others]
        self._lent: dict[int, _Lent] = {}

    @property
    def groups(self) -> Collection[int]:
        """The micro-batches that room is held for."""
        return self._lent.keys()

    def tensor(self, group: int, shape: Sequence[int], number: int) -> OrtValue | None:
        """See ``Sharing``."""
        size = nbytes_of(shape, number)
        offset = self._take(group, size) if size else None
        if offset is None:
            return None
        return over(self._heap.memory[offset : offset + size], shape, number)

    def is_shared(self, value: OrtValue) -> bool:
        """See ``Sharing``."""
        address = value.data_ptr()
        return self.offset(value) is not None or any(start <= address < end for start, end in self._others)

    def offset(self, value: OrtValue) -> int | None:
        """Where a tensor lies that others can read; None if they cannot."""
        return self._heap.offset(value.data_ptr())

    def slot(self, group: int, purpose: Hashable, size: int) -> int | None:
        """Room to copy a tensor to: the same in every step, as long as it is large enough.

        Args:
            group: The micro-batch.
            purpose: What it is for.
            size: Bytes.

        Returns:
            Where it begins; None if there is no room.
        """
        lent = self._lent.setdefault(group, _Lent())
        offset = lent.slots.get(purpose)
        if offset is not None and self._heap.room(offset) >= size:
            return offset
        if offset is not None:
            lent.offsets.discard(offset)
            self._heap.give_back(lent.slots.pop(purpose))
        offset = self._take(group, size)
        if offset is not None:
            lent.slots[purpose] = offset
        return offset

    def memory(self, offset: int, size: int) -> memoryview:
        """What lies there."""
        return self._heap.memory[offset : offset + size].data

    def lend(self, group: int, reader: Address) -> None:
        """Somebody is told where tensors of a micro-batch lie."""
        self._lent.setdefault(group, _Lent()).readers.add(reader)

    def released(self, group: int, reader: Address) -> None:
        """Somebody will read nothing of a micro-batch any more."""
        if group in self._lent:
            self._lent[group].done.add(reader)
            self._settle(group)

    def end(self, group: int) -> None:
        """This executor will write nothing of a micro-batch any more."""
        if group in self._lent:
            self._lent[group].is_over = True
            self._settle(group)

    def forget_all(self) -> None:
        """All micro-batches are over, though others may still read what lies here: all of it stays."""
        self._lent.clear()

    def clear(self) -> None:
        """Nobody reads anything any more."""
        self._lent.clear()
        self._heap.clear()

    def _take(self, group: int, size: int) -> int | None:
        offset = self._heap.take(size)
        if offset is not None:
            self._lent.setdefault(group, _Lent()).offsets.add(offset)
        return offset

    def _settle(self, group: int) -> None:
        """Give room back that nobody needs."""
        lent = self._lent[group]
        if lent.is_over and lent.readers <= lent.done:
            for offset in lent.offsets:
                self._heap.give_back(offset)
            del self._lent[group]
