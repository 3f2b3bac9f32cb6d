"""The process of one executor on some machine: ``python -m disaggc.runtime.cluster.node``.

Started by a ``guard`` with a socket to take connections at, a board of shared memory to show what it
does, and a lifeline, a pipe that ends with the guard; then so does this process. It also ends when its
driver hangs up.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, perf_counter_ns

from disaggc.errors import DisaggcError, ExecutorError, PlanError, WeightsError
from disaggc.plans import parse_plan
from disaggc.records import structure
from disaggc.runtime.arena import BEATS, GROUP, WORK, Layout, attach
from disaggc.runtime.channel import Channel, ClosedError
from disaggc.runtime.cluster.guard import NodeHandles
from disaggc.runtime.cluster.handshake import HandshakeError, Hello, dial
from disaggc.runtime.cluster.listener import Listener
from disaggc.runtime.cluster.sockets import Sockets
from disaggc.runtime.commands import Beat, Broken, Command, Join, Joined, Open, Reset, Resume, Stop
from disaggc.runtime.links import EpochOverError
from disaggc.runtime.memory import NO_MEMORY
from disaggc.runtime.messages import DRIVER, Address
from disaggc.runtime.model_file import check_model
from disaggc.runtime.outbox import Apart
from disaggc.runtime.worker import NAP_S, Worker, first

ORPHANED_S = 120.0
"""How long a process waits for its driver's first call."""
_BEAT_S = 0.25
_SLICE_S = 0.1
_LEAVE_S = 5.0


def main() -> None:
    """Serve until told to stop, or until the driver or the guard is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to deal with
    handles = structure(json.loads(sys.stdin.readline()), NodeHandles, "handles", ExecutorError)
    threading.Thread(target=_die_with, args=(handles.lifeline,), daemon=True).start()
    listener = Listener(socket.socket(fileno=handles.listening), handles.secret)
    connection = listener.take(Hello("orders"), ORPHANED_S)
    if connection is None:
        return
    channel = Channel(connection)
    try:
        NodeWorker(channel, handles, listener).serve()
    except ClosedError:
        return
    except DisaggcError as error:
        _say_and_leave(channel, connection, Broken(type(error).__name__, f"On node {handles.node}: {error}"))
    except MemoryError:
        sys.exit(NO_MEMORY)


def _say_and_leave(channel: Channel, connection: socket.socket, command: Command) -> None:
    """Say a last thing, and let it arrive: a connection that is closed with orders unread drops it."""
    with suppress(ClosedError, OSError):
        channel.send(command)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_LEAVE_S)
        while connection.recv(1 << 16):
            pass


def _die_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


class NodeWorker(Worker):
    """A worker among machines."""

    def __init__(self, channel: Channel, handles: NodeHandles, listener: Listener) -> None:
        """Wait to be told who this is; see ``Worker``.

        Raises:
            ClosedError: The driver is gone.
            DisaggcError: The plan, or its weights, are not here, or not as they should be.
        """
        order = first(channel)
        _check_folders(order)
        own = Address(handles.pool, handles.instance)
        layout = Layout((own,), heap_bytes=0)
        self._secret = handles.secret
        self._own = own
        self._listener = listener
        self._spin_ns = order.spin_us * 1000
        self._heard: deque[Command] = deque()
        self._sockets = Sockets(self._is_current, self._stalled)
        self._sockets.watch(channel.fileno())
        self._beaten = 0.0
        signs = layout.signs(attach(handles.board, layout), own)
        super().__init__(channel, order, self._sockets, signs, Apart())
        self._is_paused = True

    # waiting -------------------------------------------------------------------------------------

    def _is_told(self) -> bool:
        told, self._sockets.is_told = self._sockets.is_told or bool(self._heard), False
        return told

    def _round(self) -> bool:
        busy = super()._round()
        self._beat()
        return busy

    def _listen(self) -> None:
        if not self._heard:
            super()._listen()
        else:
            self._obey()
        self._beat()

    def _idle(self) -> None:
        """Look again and again for a while, then sleep until something arrives."""
        self._signs[GROUP] = 0
        end = perf_counter_ns() + self._spin_ns
        while perf_counter_ns() < end:
            if self._sockets.look(0.0):
                return
            os.sched_yield()
        self._sockets.look(NAP_S)

    def _stalled(self) -> None:
        """While somebody does not read: we live; a driver that resets everybody ends the waiting."""
        self._signs[BEATS] += 1
        self._beat()
        self._heard.extend(self._channel.receive())
        if any(isinstance(command, Reset | Stop) for command in self._heard):
            raise EpochOverError("An executor was lost.")

    def _beat(self) -> None:
        """Show the driver that this process lives, and whether it gets on."""
        now = monotonic()
        if now - self._beaten > _BEAT_S and self._channel.is_flushed:
            self._beaten = now
            self._channel.send(Beat(self._signs[WORK]))
        self._channel.flush()

    # orders --------------------------------------------------------------------------------------

    def _commands(self) -> Iterator[Command]:
        while self._heard:
            yield self._heard.popleft()
        yield from self._channel.receive()

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Join):
            self._join(command)
        else:
            super()._carry_out(command)

    def _reset(self, command: Reset) -> None:
        super()._reset(command)
        self._sockets.detach()

    def _resume(self, command: Resume) -> None:
        """Among machines, ``Join`` says to go on.

        Raises:
            ExecutorError: The driver takes this for a process of its own machine.
        """
        raise ExecutorError(f"An executor was told 'Resume' in round {command.epoch}, which is not for it.")

    def _join(self, command: Join) -> None:
        """Make all connections: call those that come before, be called by those that come after."""
        self._epoch = command.epoch
        self._sockets.detach()
        self._listener.drop_before(command.epoch)
        end = monotonic() + command.seconds
        missing: dict[str, str] = {}
        for peer in command.peers:
            address = Address(peer.pool, peer.instance)
            try:
                if address < self._own:
                    hello = Hello("peer", *self._own, command.epoch)
                    connection = dial(peer.host, peer.port, self._secret, hello, end - monotonic())
                else:
                    connection = self._called(Hello("peer", *address, command.epoch), end)
                self._sockets.attach(address, connection)
            except HandshakeError as error:
                missing[str(address)] = str(error)
        try:
            self._sockets.attach(DRIVER, self._called(Hello("results", epoch=command.epoch), end))
        except HandshakeError as error:
            missing["the driver"] = str(error)
        self._is_paused = False
        self._tell(Joined(command.epoch, missing))

    def _called(self, hello: Hello, end: float) -> socket.socket:
        """The connection of somebody who calls; a reset ends the waiting."""
        while True:
            connection = self._listener.take(hello, min(_SLICE_S, end - monotonic()))
            if connection is not None:
                return connection
            self._stalled()
            if monotonic() > end:
                raise HandshakeError("it did not call in time")


def _check_folders(order: Open) -> None:
    """Refuse early, and in words, what is at another place on this machine.

    Raises:
        PlanError: The plan folder is not here, or the model is another one.
        WeightsError: The model's folder is not here.
    """
    cure = "Copy it to the same path on every node, or keep it on a file system that all nodes share."
    if not Path(order.folder).is_dir():
        raise PlanError(f"There is no plan folder '{order.folder}'. {cure}")
    if not Path(order.model_folder).is_dir():
        raise WeightsError(f"There is no model folder '{order.model_folder}'. {cure}")
    check_model(parse_plan(order.plan.encode(), "the driver's plan").model, Path(order.model_folder))


if __name__ == "__main__":
    main()
