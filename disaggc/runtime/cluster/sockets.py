"""One executor's, or the driver's, ends of all its connections."""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from disaggc.runtime.cluster.wire import Wire
from disaggc.runtime.memory import NoRoomError
from disaggc.runtime.messages import Address, Message

_STALL_MS = 1.0


class Sockets:
    """Sends and receives messages over connections that others make."""

    def __init__(self, reuse: Callable[[int, int], bool], stalled: Callable[[], None]) -> None:
        """Begin without any connection.

        Args:
            reuse: Whether the tensors of the step before may be overwritten, by group and step.
            stalled: Called again and again while the other end does not read; may raise
                ``EpochOverError``.
        """
        self._reuse = reuse
        self._stalled = stalled
        self._wires: dict[Address, Wire] = {}
        self._by_number: dict[int, tuple[Address, Wire]] = {}
        self._poller = select.poll()
        self._ready: list[tuple[Address, Wire]] = []
        self._early: deque[tuple[Address, Message]] = deque()
        self._refused: deque[NoRoomError] = deque()
        self._watched = -1
        self.is_told = False
        """Whether the watched descriptor can be read."""

    def watch(self, descriptor: int) -> None:
        """Look after one more descriptor: that of the driver's orders."""
        self._watched = descriptor
        self._poller.register(descriptor, select.POLLIN)

    def attach(self, address: Address, connection: socket.socket) -> None:
        """Use a connection from now on."""
        wire = Wire(connection, self._reuse)
        self._wires[address] = wire
        self._by_number[wire.fileno()] = (address, wire)
        self._poller.register(wire.fileno(), select.POLLIN)

    def detach(self) -> None:
        """Hang up on everybody; what was on its way is gone."""
        for number, (_, wire) in self._by_number.items():
            self._poller.unregister(number)
            wire.close()
        self._wires.clear()
        self._by_number.clear()
        self._ready.clear()
        self._early.clear()
        self._refused.clear()

    def send(self, target: Address, message: Message) -> None:
        """Send a message; one to somebody who is gone is lost with them.

        Raises:
            EpochOverError: The other end does not read, and it was noticed.
        """
        wire = self._wires.get(target)
        if wire is not None and wire.is_open:
            wire.send(message, lambda: self._stall(wire))

    def again(self, target: Address, message: Message) -> Callable[[int], None]:
        """What sends a message that was sent, with another step."""
        return lambda step: self.send(target, replace(message, step=step))

    def poll(self) -> Iterator[tuple[Address, Message]]:
        """The messages that have arrived, those of one sender in order, whatever is sent meanwhile.

        Raises:
            NoRoomError: There is no memory for one of them.
        """
        if self._refused:
            raise self._refused.popleft()
        while (found := self._early.popleft() if self._early else self._arrived()) is not None:
            yield found

    def look(self, seconds: float) -> bool:
        """Wait until something can be read, at most so long; whether it can."""
        if self._early or self._refused or self._ready:
            return True
        for number, _ in self._poller.poll(seconds * 1e3):
            if number == self._watched:
                self.is_told = True
            elif number in self._by_number:
                self._by_number[number][1].is_readable = True
                self._ready.append(self._by_number[number])
        return self.is_told or bool(self._ready)

    def forget(self, group: int) -> None:
        """A micro-batch is over."""
        for wire in self._wires.values():
            wire.forget(group)

    def forget_all(self) -> None:
        """All micro-batches are over."""
        for wire in self._wires.values():
            wire.forget_all()

    def descriptors(self) -> tuple[int, ...]:
        """All connections, to wait on."""
        return tuple(self._by_number)

    def _arrived(self) -> tuple[Address, Message] | None:
        while True:
            while self._ready:
                address, wire = self._ready[-1]
                message = wire.read()
                if message is not None:
                    return address, message
                self._ready.pop()
                if not wire.is_open:
                    self._let_go(wire)
            self.look(0.0)
            if not self._ready:
                return None

    def _let_go(self, wire: Wire) -> None:
        """The other end hung up."""
        for number, (_, known) in tuple(self._by_number.items()):
            if known is wire:
                self._poller.unregister(number)
                del self._by_number[number]

    def _stall(self, wire: Wire) -> None:
        """While the other end does not read, take messages in, so that nobody waits for us."""
        self._stalled()
        try:
            while (found := self._arrived()) is not None:
                self._early.append(found)
        except NoRoomError as error:  # not now, amid a message of another micro-batch
            self._refused.append(error)
        if wire.is_open:
            writable = select.poll()
            writable.register(wire.fileno(), select.POLLOUT)
            writable.poll(_STALL_MS)
