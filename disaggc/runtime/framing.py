"""Messages as bytes: a fixed header, what the tensors are, and their elements or where those lie.

Nothing is pickled. What a hop carries looks the same in every step of a decode, so both ends keep
what they made of its description: the writer its views of the tensors, the reader the tensors that
stay bound to the stages that read them. Between executors that share memory elements do not travel:
the description says where they lie, and is sent again only when it changes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import NamedTuple

from disaggc.errors import PlanError
from disaggc.runtime.engine import OrtValue
from disaggc.runtime.memory import NoRoomError
from disaggc.runtime.messages import Address, Kind, Message
from disaggc.runtime.outbox import Outbox
from disaggc.runtime.tensors import Array, blank, flat, nbytes_of, over, same, view

HEADER = "HHIIiIQ4x"
"""Kind, tensors, group, step, index, bytes of the description, time."""
_HEADER = struct.Struct(f"<{HEADER}")
HEADER_BYTES = _HEADER.size
_KINDS = tuple(Kind)
_LENT = 0x100
"""In a kind: the tensors lie in the sender's heap. Without a description: where they lay last time."""
_TENSOR = struct.Struct("<HHIQQ")
"""Element type, extents, padding, bytes, where they lie if lent; the extents follow as 64-bit numbers."""
_ALIGNMENT = 8
_SHARED_KINDS = (Kind.VALUES, Kind.START, Kind.STATES)

Key = tuple[int, int, int]
"""Group, kind and index: what is alike from step to step."""


class _Copy(NamedTuple):
    """Elements that have to be brought to where they are read."""

    target: memoryview
    source: memoryview


@dataclass(slots=True)
class _Sent:
    """What a key's last message was made of.

    Attributes:
        tensors: As given.
        described: What the reader is told of them.
        size: Bytes of the message that follow its description.
        parts: Elements that travel in it.
        copies: Elements that are copied into the heap each time.
        is_lent: Whether they lie in the heap.
        is_told: Whether the reader knows the description.
    """

    tensors: Sequence[OrtValue]
    described: bytes
    size: int
    parts: tuple[memoryview, ...]
    copies: tuple[_Copy, ...] = ()
    is_lent: bool = False
    is_told: bool = False


@dataclass(slots=True)
class _Received:
    described: bytes
    parts: tuple[memoryview, ...]
    tensors: tuple[OrtValue, ...]


class Packer:
    """Writes messages, for one link."""

    def __init__(self, reader: Address | None = None, outbox: Outbox | None = None) -> None:
        """Prepare to write.

        Args:
            reader: Who reads them.
            outbox: Where tensors lie that the reader sees; none if it shares no memory.
        """
        self._reader = reader
        self._outbox = outbox
        self._sent: dict[Key, _Sent] = {}

    def size(self, message: Message) -> int:
        """Bytes that a message takes."""
        known = self._known(message)
        return _HEADER.size + known.size + (0 if known.is_told else len(known.described))

    def write(self, message: Message, room: memoryview) -> None:
        """Write a message into room of its ``size``."""
        known = self._known(message)
        described = b"" if known.is_told else known.described
        _pack_header(room, message, known, len(described))
        start = _HEADER.size + len(described)
        room[_HEADER.size : start] = described
        for part in known.parts:
            room[start : start + part.nbytes] = part
            start += _aligned(part.nbytes)
        for copy in known.copies:
            copy.target[:] = copy.source
        known.is_told = known.is_lent

    def pieces(self, message: Message) -> list[memoryview | bytes]:
        """What ``write`` writes, piece by piece and not copied: good until a tensor is written again."""
        known = self._known(message)
        header = bytearray(_HEADER.size)
        _pack_header(header, message, known, len(known.described))
        found: list[memoryview | bytes] = [bytes(header) + known.described]
        for part in known.parts:
            found.append(part)
            if part.nbytes % _ALIGNMENT:
                found.append(bytes(_aligned(part.nbytes) - part.nbytes))
        return found

    def is_brief(self, message: Message) -> bool:
        """Whether the reader knows all of a message but its step, and what lies where it will look."""
        known = self._known(message)
        return known.is_told and not known.copies

    def forget(self, group: int) -> None:
        """A group is over."""
        for key in [key for key in self._sent if key[0] == group]:
            del self._sent[key]

    def forget_all(self) -> None:
        """All groups are over."""
        self._sent.clear()

    def _known(self, message: Message) -> _Sent:
        key = (message.group, message.kind, message.index)
        known = self._sent.get(key)
        if known is None or not same(known.tensors, message.tensors):
            before, known = known, self._described(message)
            known.is_told = before is not None and before.is_told and before.described == known.described
            self._sent[key] = known
        return known

    def _described(self, message: Message) -> _Sent:
        if self._outbox is not None and message.tensors and message.kind in _SHARED_KINDS:
            lent = self._lent(self._outbox, message)
            if lent is not None:
                return lent
        views = [view(value) for value in message.tensors]
        described = _description(message.tensors, views, [0] * len(views))
        size = sum(_aligned(array.nbytes) for array in views)
        return _Sent(tuple(message.tensors), described, size, tuple(flat(array).data for array in views))

    def _lent(self, outbox: Outbox, message: Message) -> _Sent | None:
        """A message of tensors where they lie, or are copied to, in shared memory; None without room."""
        offsets, views, copies = [], [view(value) for value in message.tensors], []
        for number, (value, array) in enumerate(zip(message.tensors, views, strict=True)):
            offset = outbox.offset(value) if array.nbytes else 0
            if offset is None:
                purpose = (self._reader, message.kind, message.index, number)
                offset = outbox.slot(message.group, purpose, array.nbytes)
                if offset is None:
                    return None
                copies.append(_Copy(outbox.memory(offset, array.nbytes), flat(array).data))
            offsets.append(offset)
        assert self._reader is not None
        outbox.lend(message.group, self._reader)
        described = _description(message.tensors, views, offsets)
        return _Sent(tuple(message.tensors), described, 0, (), tuple(copies), is_lent=True)


class Unpacker:
    """Reads messages, for one link."""

    def __init__(self, reuse: Callable[[int, int], bool], lent: Array | None = None) -> None:
        """Prepare to read.

        Args:
            reuse: Whether the tensors of the step before may be overwritten, by group and step.
            lent: The sender's heap; none if it shares no memory.
        """
        self._reuse = reuse
        self._lent = lent
        self._received: dict[Key, _Received] = {}
        self._borrowing: set[int] = set()

    def header_alone(
        self, kind: int, _count: int, group: int, step: int, index: int, _length: int, sent_ns: int
    ) -> Message:
        """The message that is nothing but this header: without tensors, or they lie where they lay."""
        if not kind & _LENT:
            return Message(_KINDS[kind], group, step, index, (), sent_ns)
        known = self._received.get((group, kind ^ _LENT, index))
        tensors = known.tensors if known is not None else ()
        return Message(_KINDS[kind ^ _LENT], group, step, index, tensors, sent_ns)

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
            key = (group, kind & ~_LENT, index)
            if kind & _LENT:
                tensors = self._borrow(key, described, count)
            else:
                tensors = self._copy(key, step, described, count, data[start:])
            return Message(_KINDS[key[1]], group, step, index, tensors, sent_ns)
        except MemoryError as error:
            raise NoRoomError(group, len(data)) from error
        except (struct.error, ValueError, LookupError) as error:
            raise PlanError(f"A message between executors does not read: {error}. Run again.") from error

    def forget(self, group: int) -> bool:
        """A group is over; whether anything of it lay with the sender."""
        for key in [key for key in self._received if key[0] == group]:
            del self._received[key]
        was_borrowing = group in self._borrowing
        self._borrowing.discard(group)
        return was_borrowing

    def forget_all(self) -> None:
        """All groups are over."""
        self._received.clear()
        self._borrowing.clear()

    def _borrow(self, key: Key, described: bytes, count: int) -> tuple[OrtValue, ...]:
        """Tensors where they lie; none of a micro-batch that is over here."""
        self._borrowing.add(key[0])
        known = self._received.get(key)
        if described and (known is None or known.described != described):
            known = self._received[key] = _Received(described, (), self._lying(described, count))
        return known.tensors if known is not None else ()

    def _lying(self, described: bytes, count: int) -> tuple[OrtValue, ...]:
        if self._lent is None:
            raise ValueError("its tensors lie elsewhere")
        tensors = []
        for number, shape, size, offset in _tensors(described, count):
            if offset + size > len(self._lent):
                raise ValueError(f"a tensor lies at byte {offset:,}, beyond the sender's heap")
            tensors.append(over(self._lent[offset : offset + size], shape, number))
        return tuple(tensors)

    def _copy(
        self, key: Key, step: int, described: bytes, count: int, data: memoryview
    ) -> tuple[OrtValue, ...]:
        """Tensors with these elements."""
        found, start = self._place(key, step, described, count), 0
        for part in found.parts:
            part[:] = data[start : start + part.nbytes]
            start += _aligned(part.nbytes)
        return found.tensors

    def _place(self, key: Key, step: int, described: bytes, count: int) -> _Received:
        """Where a message's tensors go: where the last ones went, if these are alike."""
        known = self._received.get(key)
        if known is not None and known.described == described and self._reuse(key[0], step):
            return known
        found = _allocate(described, count)
        if known is None or self._reuse(key[0], step):
            self._received[key] = found
        return found


def brief(message: Message) -> tuple[int, int, int, int, int, int, int]:
    """The fields of ``HEADER`` for a message that ``Packer.is_brief``."""
    kind, count = message.kind | _LENT, len(message.tensors)
    return kind, count, message.group, message.step, message.index, 0, message.sent_ns


def group_of(data: memoryview) -> int:
    """The micro-batch that a message is for, of which this is the beginning.

    Raises:
        PlanError: It is not even a header.
    """
    if len(data) < HEADER_BYTES:
        raise PlanError("A message between executors ends before it says what it is. Run again.")
    group: int = _HEADER.unpack_from(data)[2]
    return group


def _pack_header(room: memoryview | bytearray, message: Message, known: _Sent, length: int) -> None:
    kind = message.kind | _LENT if known.is_lent else message.kind
    count = len(known.tensors)
    where = (message.group, message.step, message.index)
    _HEADER.pack_into(room, 0, kind, count, *where, length, perf_counter_ns())


def _description(tensors: Sequence[OrtValue], views: Sequence[Array], offsets: Sequence[int]) -> bytes:
    return b"".join(
        _TENSOR.pack(value.element_type(), array.ndim, 0, array.nbytes, offset)
        + struct.pack(f"<{array.ndim}Q", *array.shape)
        for value, array, offset in zip(tensors, views, offsets, strict=True)
    )


def _tensors(described: bytes, count: int) -> list[tuple[int, tuple[int, ...], int, int]]:
    """Element type, shape, bytes and place of each tensor."""
    at, found = 0, []
    for _ in range(count):
        number, rank, _, size, offset = _TENSOR.unpack_from(described, at)
        shape = struct.unpack_from(f"<{rank}Q", described, at + _TENSOR.size)
        if nbytes_of(shape, number) != size:
            raise ValueError(f"a tensor of shape {list(shape)} has {size} bytes")
        found.append((number, shape, size, offset))
        at += _TENSOR.size + 8 * rank
    return found


def _allocate(described: bytes, count: int) -> _Received:
    parts, tensors = [], []
    for number, shape, _, _ in _tensors(described, count):
        array, tensor = blank(shape, number)
        parts.append(flat(array).data)
        tensors.append(tensor)
    return _Received(described, tuple(parts), tuple(tensors))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
