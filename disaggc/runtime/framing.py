"""Messages as bytes on a shared-memory ring: a fixed header, what the tensors are, and their elements.

Nothing is pickled. What a hop carries looks the same in every step of a decode, so both ends keep
what they made of its description: the writer its views of the tensors, the reader the tensors that
it copies into, which stay bound to the stages that read them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from disaggc.errors import PlanError
from disaggc.runtime.engine import OrtValue
from disaggc.runtime.memory import NoRoomError
from disaggc.runtime.messages import Kind, Message
from disaggc.runtime.tensors import blank, flat, same, view

_HEADER = struct.Struct("<HHIIiIQ")
"""Kind, tensors, group, step, index, bytes of the description, time."""
HEADER_BYTES = _HEADER.size
_KINDS = tuple(Kind)
_TENSOR = struct.Struct("<HHIQ")
"""Element type, extents, padding, bytes; the extents follow as 64-bit numbers."""
_ALIGNMENT = 8

Key = tuple[int, int, int]
"""Group, kind and index: what is alike from step to step."""


@dataclass(slots=True)
class _Sent:
    tensors: Sequence[OrtValue]
    parts: tuple[memoryview, ...]
    described: bytes
    size: int


@dataclass(slots=True)
class _Received:
    described: bytes
    parts: tuple[memoryview, ...]
    tensors: tuple[OrtValue, ...]


class Packer:
    """Writes messages, for one link."""

    def __init__(self) -> None:
        self._sent: dict[Key, _Sent] = {}

    def size(self, message: Message) -> int:
        """Bytes that a message takes."""
        return _HEADER.size + self._known(message).size

    def write(self, message: Message, room: memoryview) -> None:
        """Write a message into room of its ``size``."""
        known = self._known(message)
        length = len(known.described)
        _HEADER.pack_into(
            room,
            0,
            message.kind,
            len(known.parts),
            message.group,
            message.step,
            message.index,
            length,
            perf_counter_ns(),
        )
        start = _HEADER.size + length
        room[_HEADER.size : start] = known.described
        for part in known.parts:
            room[start : start + part.nbytes] = part
            start += _aligned(part.nbytes)

    def pieces(self, message: Message) -> list[memoryview | bytes]:
        """What ``write`` writes, piece by piece and not copied: good until a tensor is written again."""
        known = self._known(message)
        header = _HEADER.pack(
            message.kind,
            len(known.parts),
            message.group,
            message.step,
            message.index,
            len(known.described),
            perf_counter_ns(),
        )
        found: list[memoryview | bytes] = [header + known.described]
        for part in known.parts:
            found.append(part)
            if part.nbytes % _ALIGNMENT:
                found.append(bytes(_aligned(part.nbytes) - part.nbytes))
        return found

    def forget(self, group: int) -> None:
        """A group is over."""
        for key in [key for key in self._sent if key[0] == group]:
            del self._sent[key]

    def _known(self, message: Message) -> _Sent:
        key = (message.group, message.kind, message.index)
        known = self._sent.get(key)
        if known is None or not same(known.tensors, message.tensors):
            known = self._sent[key] = _describe(message.tensors)
        return known


class Unpacker:
    """Reads messages, for one link."""

    def __init__(self, reuse: Callable[[int, int], bool]) -> None:
        """Prepare to read.

        Args:
            reuse: Whether the tensors of the step before may be overwritten, by group and step.
        """
        self._reuse = reuse
        self._received: dict[Key, _Received] = {}

    def read(self, data: memoryview) -> Message:
        """The message in these bytes, which may be overwritten afterwards.

        Raises:
            NoRoomError: There is no memory for its tensors.
            PlanError: The bytes are no message.
        """
        try:
            kind, count, group, step, index, length, sent_ns = _HEADER.unpack_from(data)
            start = _HEADER.size + length
            described = bytes(data[_HEADER.size : start])
            found = self._place((group, kind, index), step, described, count)
            for part in found.parts:
                part[:] = data[start : start + part.nbytes]
                start += _aligned(part.nbytes)
            return Message(_KINDS[kind], group, step, index, found.tensors, sent_ns)
        except MemoryError as error:
            raise NoRoomError(group, len(data)) from error
        except (struct.error, ValueError, IndexError) as error:
            raise PlanError(f"A message between executors does not read: {error}. Run again.") from error

    def forget(self, group: int) -> None:
        """A group is over."""
        for key in [key for key in self._received if key[0] == group]:
            del self._received[key]

    def _place(self, key: Key, step: int, described: bytes, count: int) -> _Received:
        """Where a message's tensors go: where the last ones went, if these are alike."""
        known = self._received.get(key)
        if known is not None and known.described == described and self._reuse(key[0], step):
            return known
        found = _allocate(described, count)
        if known is None or self._reuse(key[0], step):
            self._received[key] = found
        return found


def group_of(data: memoryview) -> int:
    """The micro-batch that a message is for, of which this is the beginning.

    Raises:
        PlanError: It is not even a header.
    """
    if len(data) < HEADER_BYTES:
        raise PlanError("A message between executors ends before it says what it is. Run again.")
    group: int = _HEADER.unpack_from(data)[2]
    return group


def _describe(tensors: Sequence[OrtValue]) -> _Sent:
    views = [view(value) for value in tensors]
    described = b"".join(
        _TENSOR.pack(value.element_type(), array.ndim, 0, array.nbytes)
        + struct.pack(f"<{array.ndim}Q", *array.shape)
        for value, array in zip(tensors, views, strict=True)
    )
    size = len(described) + sum(_aligned(array.nbytes) for array in views)
    return _Sent(tuple(tensors), tuple(flat(array).data for array in views), described, size)


def _allocate(described: bytes, count: int) -> _Received:
    at, parts, tensors = 0, [], []
    for _ in range(count):
        number, rank, _, size = _TENSOR.unpack_from(described, at)
        shape = struct.unpack_from(f"<{rank}Q", described, at + _TENSOR.size)
        array, tensor = blank(shape, number)
        if array.nbytes != size:
            raise ValueError(f"a tensor of shape {list(shape)} has {size} bytes")
        parts.append(flat(array).data)
        tensors.append(tensor)
        at += _TENSOR.size + 8 * rank
    return _Received(described, tuple(parts), tuple(tensors))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
