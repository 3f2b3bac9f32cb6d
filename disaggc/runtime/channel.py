"""Commands between the driver and an executor's process: JSON with its length in front, on a socket pair.

A socket pair has no name: only the two processes that inherited its ends can talk on it. Each says
the secret of the run first, all the same, so that a descriptor that leads elsewhere is noticed.
What arrives is parsed as JSON and read into a record of ``commands``; nothing else is ever made of it.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator

from disaggc.errors import ExecutorError
from disaggc.runtime.commands import Command, read_command, write_command

_LENGTH = struct.Struct("<I")
LARGEST = 1 << 30
_CHUNK = 1 << 16
_JSON = json.JSONEncoder(separators=(",", ":"))


class ClosedError(ExecutorError):
    """The other side is gone."""


class Channel:
    """One end; sends and receives whole commands."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.setblocking(False)
        self._received = bytearray()
        self._unsent = bytearray()

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._socket.fileno()

    def send(self, command: Command) -> None:
        """Send a command as far as the other side takes it now; ``flush`` sends the rest.

        Raises:
            ClosedError: The other side is gone.
        """
        data = _JSON.encode(write_command(command)).encode()
        self._unsent += _LENGTH.pack(len(data)) + data
        self.flush()

    def flush(self) -> bool:
        """Send what is left over, without waiting; whether all is sent.

        Raises:
            ClosedError: The other side is gone.
        """
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return False
        except OSError as error:
            raise ClosedError(f"The other side hung up ({error.strerror}).") from error
        return True

    @property
    def is_flushed(self) -> bool:
        """Whether all commands were sent."""
        return not self._unsent

    def receive(self) -> Iterator[Command]:
        """The commands that have arrived; does not wait.

        Raises:
            ClosedError: The other side is gone; what arrived before was given.
        """
        closed = self._fill()
        while (data := self._next()) is not None:
            yield read_command(json.loads(data))
        if closed:
            raise ClosedError("The other side hung up.")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _fill(self) -> bool:
        """Take in what is there; whether the other side is known to have hung up."""
        while True:
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                return False
            except OSError:
                return True
            if not data:
                return True
            self._received += data
            if len(data) < _CHUNK:
                return False

    def _next(self) -> bytes | None:
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > LARGEST:
            raise ClosedError(f"The other side announces {length:,} bytes, more than any command has.")
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        data = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return data
