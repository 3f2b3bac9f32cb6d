"""Messages between processes: over the rings of the arena, with bells for those that sleep.

What tensors hold does not go through a ring: each executor has a heap that all others see (see ``outbox``).
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from time import perf_counter_ns

from disaggc.errors import ExecutorError
from disaggc.runtime.arena import ASLEEP, Layout
from disaggc.runtime.bell import Bell
from disaggc.runtime.framing import HEADER, Packer, Unpacker, brief, group_of
from disaggc.runtime.heap import Heap
from disaggc.runtime.memory import NoRoomError
from disaggc.runtime.messages import DRIVER, Address, Kind, Message
from disaggc.runtime.outbox import Outbox
from disaggc.runtime.ring import WRITTEN, Ring
from disaggc.runtime.tensors import Array

_REST = struct.Struct("<Q")
"""In front of each record: how many bytes of the message are still to come."""
_BRIEF = struct.Struct(f"<Q{HEADER}")
"""A message that is nothing but its header."""
_STALL_S = 100e-6


class EpochOverError(ExecutorError):
    """Somebody was lost: what is being sent matters no more."""


@dataclass(slots=True)
class _Way:
    """One direction to or from a peer."""

    ring: Ring
    packer: Packer
    unpacker: Unpacker
    message: memoryview | None = None
    filled: int = 0
    is_skipping: bool = False


class Links:
    """One process's ends of its rings."""

    def __init__(
        self,
        own: Address,
        layout: Layout,
        memory: Array,
        bells: Mapping[Address, Bell],
        reuse: Callable[[int, int], bool],
        stalled: Callable[[], None],
        heap_bytes: int | None = None,
    ) -> None:
        """Look at the rings.

        Args:
            own: Whose ends these are.
            layout: Where the rings lie.
            memory: The arena.
            bells: Everybody's.
            reuse: Whether the tensors of the step before may be overwritten, by group and step.
            stalled: Called again and again while a ring is full; may raise ``EpochOverError``.
            heap_bytes: What tensors that others read may take; as much as there is if left out.
        """
        self._own = own
        self._stalled = stalled
        self._bells = bells
        self._signs = {address: layout.signs(memory, address) for address in (DRIVER, *layout.addresses)}
        heaps = {address: layout.heap(memory, address) for address in layout.addresses}
        others = [heap for address, heap in heaps.items() if address != own]
        self.outbox = Outbox(Heap(heaps[own], heap_bytes), others) if own in heaps else None
        ways = {
            (source, target): _Way(
                layout.ring(memory, source, target),
                Packer(target, self.outbox if target in heaps else None),
                Unpacker(reuse, heaps.get(source)),
            )
            for source, target in layout.pairs
            if own in (source, target)
        }
        self._out = {target: way for (source, target), way in ways.items() if source == own}
        self._in = tuple((source, way) for (source, target), way in ways.items() if target == own)
        self._early: deque[tuple[Address, Message]] = deque()
        self._refused: deque[NoRoomError] = deque()

    def send(self, target: Address, message: Message) -> None:
        """Write a message for another process, and wake it.

        Raises:
            EpochOverError: It does not read, and it was noticed.
        """
        way = self._out[target]
        size = way.packer.size(message)
        if _REST.size + size <= way.ring.largest:
            room = self._room(way.ring, _REST.size + size)
            _REST.pack_into(room, 0, 0)
            way.packer.write(message, room[_REST.size :])
            way.ring.publish()
        else:
            self._send_in_pieces(target, way, message, size)
        self._bells[target].ring(self._signs[target])

    def again(self, target: Address, message: Message) -> Callable[[int], None]:
        """What sends a message that was sent, with another step; its tensors may hold something else by now.

        Args:
            target: Whom it was sent to.
            message: As it was.
        """
        way = self._out[target]
        if not way.packer.is_brief(message):
            return lambda step: self.send(target, replace(message, step=step))
        kind, count, group, _, index, length, _ = brief(message)
        post, bell, signs = way.ring.post, self._bells[target], self._signs[target]

        def send(step: int) -> None:
            if not post(_BRIEF, 0, kind, count, group, step, index, length, perf_counter_ns()):
                self.send(target, replace(message, step=step))
            elif signs[ASLEEP]:
                bell.ring(signs)

        return send

    def poll(self) -> Iterator[tuple[Address, Message]]:
        """The messages that have arrived, those of one sender in order, whatever is sent meanwhile.

        Raises:
            NoRoomError: There is no memory for one of them.
        """
        if self._refused:
            raise self._refused.popleft()
        while (found := self._early.popleft() if self._early else self._arrived()) is not None:
            yield found

    def has_any(self) -> bool:
        """Whether a message has arrived."""
        for _, way in self._in:
            ring = way.ring
            if ring.counters[WRITTEN] != ring.taken:
                return True
        return bool(self._early or self._refused)

    def forget(self, group: int) -> None:
        """A micro-batch is over."""
        for way in self._out.values():
            way.packer.forget(group)
        for source, way in self._in:
            if way.unpacker.forget(group):
                self.send(source, Message(Kind.RELEASED, group, 0, 0, ()))
        if self.outbox is not None:
            self.outbox.end(group)

    def forget_all(self) -> None:
        """All micro-batches are over, and nobody is told; what others still read stays until ``restart``."""
        for way in self._ways():
            way.packer.forget_all()
            way.unpacker.forget_all()
        if self.outbox is not None:
            self.outbox.forget_all()

    def restart(self) -> None:
        """Begin anew, after the rings were cleared; nobody reads anything any more."""
        if self.outbox is not None:
            self.outbox.clear()
        self._early.clear()
        self._refused.clear()
        for way in self._ways():
            way.ring.restart()
            way.message, way.is_skipping = None, False

    def clear(self) -> None:
        """Empty this end's rings; nobody may use them meanwhile."""
        for way in self._ways():
            way.ring.clear()
        self.restart()

    def _room(self, ring: Ring, size: int) -> memoryview:
        """Room in a ring; while there is none, messages are taken in, so that nobody waits for us."""
        while (room := ring.reserve(size)) is None:
            self._stalled()
            try:
                while (found := self._arrived()) is not None:
                    self._early.append(found)
            except NoRoomError as error:  # not now, amid a message of another micro-batch
                self._refused.append(error)
            time.sleep(_STALL_S)
        return room

    def _arrived(self) -> tuple[Address, Message] | None:
        """The next message in the rings; those that say what is read no more are dealt with here."""
        for source, way in self._in:
            ring = way.ring
            if ring.counters[WRITTEN] == ring.taken:
                continue
            while (message := _next(way)) is not None:
                if message.kind is not Kind.RELEASED:
                    return source, message
                assert self.outbox is not None
                self.outbox.released(message.group, source)
        return None

    def _ways(self) -> Iterator[_Way]:
        yield from self._out.values()
        yield from (way for _, way in self._in)

    def _send_in_pieces(self, target: Address, way: _Way, message: Message, size: int) -> None:
        whole = memoryview(bytearray(size))
        way.packer.write(message, whole)
        piece = way.ring.largest - _REST.size
        for start in range(0, size, piece):
            part = whole[start : start + piece]
            room = self._room(way.ring, _REST.size + len(part))
            _REST.pack_into(room, 0, size - start - len(part))
            room[_REST.size :] = part
            way.ring.publish()
            self._bells[target].ring(self._signs[target])


def _next(way: _Way) -> Message | None:
    """The next whole message on its way, if it is here."""
    if way.message is None and not way.is_skipping and (fields := way.ring.take(_BRIEF)) is not None:
        return way.unpacker.header_alone(*fields[1:])
    while (record := way.ring.peek()) is not None:
        (rest,) = _REST.unpack_from(record)
        try:
            message = _assemble(way, record[_REST.size :], rest)
        finally:
            way.ring.release()
        if message is not None:
            return message
    return None


def _assemble(way: _Way, part: memoryview, rest: int) -> Message | None:
    """The message that this part of it completes, if it does.

    Raises:
        NoRoomError: There is no memory for it; what is still to come of it will be skipped.
    """
    if way.is_skipping:
        way.is_skipping = rest > 0
        return None
    if way.message is None and rest == 0:
        return way.unpacker.read(part)
    if way.message is None:
        way.message, way.filled = _room(way, part, len(part) + rest), 0
    way.message[way.filled : way.filled + len(part)] = part
    way.filled += len(part)
    if rest:
        return None
    whole, way.message = way.message, None
    return way.unpacker.read(whole)


def _room(way: _Way, first: memoryview, size: int) -> memoryview:
    try:
        return memoryview(bytearray(size))
    except MemoryError as error:
        way.is_skipping = True
        raise NoRoomError(group_of(first), size) from error
