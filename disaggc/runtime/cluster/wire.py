"""A connection between two executors: messages, each with its length in front.

Tensors are handed to the kernel where they lie, and taken from it into the buffers that stages are
bound to, over one buffer of bytes for all small messages; large ones get memory of their own.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import numpy as np

from disaggc.runtime.framing import HEADER_BYTES, Packer, Unpacker, group_of
from disaggc.runtime.memory import NoRoomError
from disaggc.runtime.messages import Message

_LENGTH = struct.Struct("<Q")
_BUFFER_BYTES = 1 << 17
_PIECES = 512
"""Of a message in one call of the kernel; it takes at most 1024."""


class Wire:
    """One end of a connection; it never waits by itself."""

    def __init__(self, connection: socket.socket, reuse: Callable[[int, int], bool]) -> None:
        """Take over a connection.

        Args:
            connection: It; what is proved is proved.
            reuse: Whether the tensors of the step before may be overwritten, by group and step.
        """
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._packer = Packer()
        self._unpacker = Unpacker(reuse)
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0
        self._whole: memoryview | None = None
        self._filled = 0
        self._skipped = 0
        self.is_open = True
        self.is_readable = True
        """Whether the kernel may have more."""

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._connection.fileno()

    def send(self, message: Message, stalled: Callable[[], None]) -> None:
        """Send a message; if the other end is gone, nothing happens: others notice.

        Args:
            message: It.
            stalled: Called while the kernel takes no more; may raise.
        """
        pieces = [memoryview(piece) for piece in self._packer.pieces(message)]
        pieces.insert(0, memoryview(_LENGTH.pack(sum(piece.nbytes for piece in pieces))))
        while pieces and self.is_open:
            try:
                sent = self._connection.sendmsg(pieces[:_PIECES])
            except BlockingIOError:
                stalled()
            except OSError:
                self.close()
            else:
                pieces = _rest(pieces, sent)

    def read(self) -> Message | None:
        """The next message that is here as a whole.

        Raises:
            NoRoomError: There is no memory for it; it is skipped.
        """
        while True:
            message = self._next()
            if message is not None or not self._fill():
                return message

    def forget(self, group: int) -> None:
        """A micro-batch is over."""
        self._packer.forget(group)
        self._unpacker.forget(group)

    def forget_all(self) -> None:
        """All are."""
        self._packer.forget_all()
        self._unpacker.forget_all()

    def close(self) -> None:
        """Hang up."""
        self.is_open = False
        self._connection.close()

    # reading -------------------------------------------------------------------------------------

    def _next(self) -> Message | None:
        self._skip()
        if self._whole is not None:
            return self._completed()
        here = self._end - self._start
        if here < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._start)
        if _LENGTH.size + length <= here:
            first = self._start + _LENGTH.size
            self._start = first + length
            return self._unpacker.read(self._buffer[first : first + length])
        if _LENGTH.size + length > _BUFFER_BYTES and here >= _LENGTH.size + HEADER_BYTES:
            self._enlarge(length)
        return None

    def _skip(self) -> None:
        """Drop what belongs to a message that there was no room for."""
        dropped = min(self._skipped, self._end - self._start)
        self._start += dropped
        self._skipped -= dropped

    def _enlarge(self, length: int) -> None:
        """Give a large message memory of its own, and put there what has arrived of it."""
        self._start += _LENGTH.size
        part = self._buffer[self._start : self._end]
        try:
            whole = np.empty(length, np.uint8).data
        except MemoryError as error:
            self._skipped = length
            raise NoRoomError(group_of(part), length) from error
        whole[: len(part)] = part
        self._whole, self._filled = whole, len(part)
        self._start = self._end = 0

    def _completed(self) -> Message | None:
        whole = self._whole
        if whole is None or self._filled < len(whole):
            return None
        self._whole = None
        return self._unpacker.read(whole)

    def _fill(self) -> bool:
        """Take what the kernel has; whether there was anything."""
        if not (self.is_open and self.is_readable):
            return False
        room = self._room()
        try:
            count = self._connection.recv_into(room)
        except BlockingIOError:
            self.is_readable = False
            return False
        except OSError:
            count = 0
        if not count:
            self.close()
            return False
        self.is_readable = count == len(room)
        if self._whole is not None:
            self._filled += count
        else:
            self._end += count
        return True

    def _room(self) -> memoryview:
        if self._whole is not None:
            return self._whole[self._filled :]
        if self._start:
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._buffer[self._end :]


def _rest(pieces: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of pieces after so many bytes."""
    for number, piece in enumerate(pieces):
        if sent < piece.nbytes:
            return [piece[sent:], *pieces[number + 1 :]]
        sent -= piece.nbytes
    return []
