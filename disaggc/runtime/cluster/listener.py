"""Takes connections for an executor, beside its work: a call is answered whatever the executor does."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from disaggc.runtime.cluster.handshake import HandshakeError, Hello, admit

_CALLERS = 256
"""Calls that are being answered at a time; more have to wait."""


class Listener:
    """Admits who knows the secret of the run, and keeps their connections until somebody takes them."""

    def __init__(self, listening: socket.socket, secret: str) -> None:
        self._listening = listening
        self._secret = secret
        self._held: dict[Hello, socket.socket] = {}
        self._changed = threading.Condition()
        self._answering = threading.BoundedSemaphore(_CALLERS)
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self, hello: Hello, seconds: float) -> socket.socket | None:
        """The connection of who said this; None if nobody has within ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: hello in self._held, max(seconds, 0.0))
            return self._held.pop(hello, None)

    def drop_before(self, epoch: int) -> None:
        """Hang up on those that called for earlier rounds."""
        with self._changed:
            for hello in [hello for hello in self._held if hello.epoch < epoch]:
                self._held.pop(hello).close()

    def close(self) -> None:
        """Take no more calls."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                self._answering.acquire()
                connection, _ = self._listening.accept()
                threading.Thread(target=self._admit, args=(connection,), daemon=True).start()

    def _admit(self, connection: socket.socket) -> None:
        try:
            hello = admit(connection, self._secret)
        except (OSError, ValueError, HandshakeError):  # a stranger learns nothing, not even why
            connection.close()
            return
        finally:
            self._answering.release()
        with self._changed:
            earlier = self._held.pop(hello, None)
            if earlier is not None:
                earlier.close()
            self._held[hello] = connection
            self._changed.notify_all()
