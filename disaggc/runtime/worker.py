"""The process of one executor: ``python -m disaggc.runtime.worker``, started by ``processes`` alone.

It gets open descriptors and nothing else: a socket for commands, the shared memory, bells, and a
lifeline, a pipe that ends when the driver does, whatever ended it. Then so does this process.
"""

from __future__ import annotations

import hmac
import json
import os
import signal
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns
from typing import Protocol

from disaggc.errors import DisaggcError, ExecutorError, OutOfMemoryError
from disaggc.plans import Plan, parse_plan
from disaggc.records import structure
from disaggc.runtime.actor import Actor
from disaggc.runtime.arena import ASLEEP, BEATS, COMMANDS, EPOCH, GROUP, WORK, Layout, Signs, attach
from disaggc.runtime.bell import Bell, wait_readable
from disaggc.runtime.channel import Channel, ClosedError
from disaggc.runtime.commands import (
    Broken,
    Close,
    Command,
    Connect,
    Failed,
    Form,
    More,
    Open,
    Opened,
    Prefill,
    Report,
    Reset,
    Resume,
    Stop,
    WasReset,
)
from disaggc.runtime.executor import Executor
from disaggc.runtime.handles import Handles, addresses_of
from disaggc.runtime.links import EpochOverError, Links
from disaggc.runtime.memory import NO_MEMORY, NoRoomError, bound, shared_part
from disaggc.runtime.messages import DRIVER, Address, Message
from disaggc.runtime.outbox import Sharing
from disaggc.runtime.patience import Patience
from disaggc.runtime.ring import fence
from disaggc.runtime.sessions import StageOpener
from disaggc.runtime.threads import threads_in_effect
from disaggc.runtime.weights import check_weights, read_table
from disaggc.runtime.wiring import phase_of

NAP_S = 0.5
"""Longest sleep; an idle process shows that it lives at least as often."""


def main() -> None:
    """Serve until told to stop, or until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to deal with
    handles = structure(json.loads(sys.stdin.readline()), Handles, "handles", ExecutorError)
    threading.Thread(target=_die_with, args=(handles.lifeline,), daemon=True).start()
    channel = Channel(socket.socket(fileno=handles.control))
    try:
        LocalWorker(channel, handles).serve()
    except ClosedError:
        return
    except DisaggcError as error:
        with suppress(ClosedError):
            channel.send(Broken(type(error).__name__, str(error)))
    except MemoryError:
        sys.exit(NO_MEMORY)


def _die_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


class Exchange(Protocol):
    """One executor's ends of the ways to all others and to the driver."""

    def send(self, target: Address, message: Message) -> None:
        """Bring a message to an executor or the driver."""

    def poll(self) -> Iterator[tuple[Address, Message]]:
        """The messages that have arrived, those of one sender in order."""

    def again(self, target: Address, message: Message) -> Callable[[int], None]:
        """What sends a message that was sent, with another step."""

    def forget(self, group: int) -> None:
        """A micro-batch is over."""

    def forget_all(self) -> None:
        """All are, and nobody need be told."""


class Worker(ABC):
    """Acts for one executor: obeys its driver, takes in messages, runs stages.

    How it waits, and how it learns that its driver has given up on somebody, depends on what connects
    them: see ``LocalWorker``, and ``cluster.node`` for other machines.
    """

    def __init__(
        self,
        channel: Channel,
        order: Open,
        links: Exchange,
        signs: Signs,
        sharing: Sharing,
        shared_bytes: int = 0,
    ) -> None:
        """Open the stages, and say so.

        Args:
            channel: To the driver.
            order: Its first command.
            links: To all others.
            signs: Where this process shows what it does.
            sharing: Where tensors may lie that others read.
            shared_bytes: What they may take there, where memory is limited.

        Raises:
            ClosedError: The driver is gone.
            DisaggcError: The plan, or its weights, are not as they should be.
        """
        self._channel = channel
        self._links = links
        self._signs = signs
        self._threads = order.threads
        self._obeyed = 1
        self._is_stopped = False
        self._is_paused = False
        self._epoch = 0
        bound(order.memory_bytes, shared_bytes)
        plan = parse_plan(order.plan.encode(), "the driver's plan")
        own = Address(order.pool, order.instance)
        executor = Executor(own.pool, plan, _opener(plan, order), order.traced, sharing)
        self._actor = Actor(own, plan, executor, self)
        self._actor.now = self._now
        self._actor.carried = [] if order.traced else None
        self._tell(Opened(order.secret, self._actor.ports()))

    # the actor's endpoint ------------------------------------------------------------------------

    def send(self, target: Address, message: Message) -> None:
        """Bring a message to another executor or the driver."""
        self._links.send(target, message)

    def again(self, target: Address, message: Message) -> Callable[[int], None]:
        """What sends a message that was sent, with another step."""
        return self._links.again(target, message)

    def tell(self, command: Failed) -> None:
        """Tell the driver of a failure."""
        self._tell(command)

    def forget(self, group: int) -> None:
        """A micro-batch is over."""
        self._links.forget(group)

    # rounds --------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Act until told to stop.

        Raises:
            ClosedError: The driver is gone.
        """
        while not self._is_stopped:
            self._signs[BEATS] += 1
            try:
                if self._is_paused:
                    self._listen()
                elif self._round():
                    self._signs[WORK] += 1
                else:
                    self._idle()
            except EpochOverError:
                self._is_paused = True

    def _round(self) -> bool:
        """Whether there was anything to do."""
        busy = self._is_told() and self._obey()
        if self._is_paused or self._is_stopped:
            return True
        try:
            for source, message in self._links.poll():
                self._actor.receive(source, message)
                busy = True
        except NoRoomError as error:
            self._actor.give_up(error.group, OutOfMemoryError(str(error)))
        return self._actor.work() or busy

    @abstractmethod
    def _is_told(self) -> bool:
        """Whether commands may have arrived."""

    @abstractmethod
    def _idle(self) -> None:
        """Wait until there is something to do, for a while."""

    @abstractmethod
    def _stalled(self) -> None:
        """While somebody does not read: we live, but is it still worth waiting?

        Raises:
            EpochOverError: It is not.
        """

    @abstractmethod
    def _resume(self, command: Resume) -> None:
        """Go on after everybody was reset."""

    def _is_current(self, group: int, step: int) -> bool:
        return self._actor.is_current(group, step)

    def _now(self, group: int) -> None:
        signs = self._signs
        signs[GROUP] = group
        signs[BEATS] += 1

    # commands ------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Keep off the rings; do nothing but listen to the driver."""
        wait_readable((self._channel.fileno(),), NAP_S)
        self._obey()

    def _obey(self) -> bool:
        """Carry out what has been sent; whether there was anything."""
        before = self._obeyed
        for command in self._commands():
            self._obeyed += 1
            self._carry_out(command)
        return self._obeyed != before

    def _commands(self) -> Iterator[Command]:
        """What the driver has said."""
        return self._channel.receive()

    def _carry_out(self, command: Command) -> None:
        match command:
            case Prefill() | Form() | More() | Close():
                self._actor.command(command)
            case Connect():
                self._actor.connect(command.stages)
            case Report():
                self._tell(self._actor.report(threads_in_effect(self._threads)))
            case Reset():
                self._reset(command)
                self._tell(WasReset(command.epoch))
            case Resume():
                self._resume(command)
            case Stop():
                self._is_stopped = True
            case _:
                raise ExecutorError(f"An executor was told '{type(command).__name__}', which is not for it.")

    def _reset(self, command: Reset) -> None:
        """Forget everything, and do nothing until told to go on."""
        self._links.forget_all()
        self._actor.reset()
        self._epoch = command.epoch
        self._is_paused = True

    def _tell(self, command: Command) -> None:
        """Say something to the driver, which listens whatever else it does."""
        self._channel.send(command)
        while not self._channel.flush():
            self._stalled()
            wait_readable((self._channel.fileno(),), 1e-3)


class LocalWorker(Worker):
    """A worker among processes of one machine."""

    def __init__(self, channel: Channel, handles: Handles) -> None:
        """Wait to be told who this is, and take its place in the shared memory; see ``Worker``.

        Raises:
            ClosedError: The driver is gone.
            DisaggcError: The plan, or its weights, are not as they should be.
        """
        order = first(channel)
        if not hmac.compare_digest(order.secret, handles.secret):
            raise ExecutorError("Somebody else than its driver talks to this process.")
        own = Address(order.pool, order.instance)
        layout = Layout(addresses_of(order.instances))
        memory = attach(handles.arena, layout)
        bells = {
            address: Bell(-1, end)
            for address, end in zip((DRIVER, *layout.addresses), handles.bells, strict=True)
        }
        self._patience = Patience(order.spin_us * 1000)
        self._driver = layout.signs(memory, DRIVER)
        self._bell = Bell(handles.own_bell, bells[own].writing)
        shared = shared_part(order.memory_bytes)
        self._rings = Links(own, layout, memory, bells, self._is_current, self._stalled, shared)
        epoch = self._driver[EPOCH]
        outbox, signs = self._rings.outbox, layout.signs(memory, own)
        assert outbox is not None
        super().__init__(channel, order, self._rings, signs, outbox, shared or 0)
        self._epoch = epoch

    def _is_told(self) -> bool:
        return self._signs[COMMANDS] != self._obeyed

    def _idle(self) -> None:
        """Look again and again for a while, then sleep until somebody rings.

        Between two looks whoever else wants the core may have it.
        """
        self._signs[GROUP] = 0
        start = perf_counter_ns()
        end = start + self._patience.ns
        while (now := perf_counter_ns()) < end:
            if self._is_wanted():
                return self._patience.waited(now - start)
            os.sched_yield()
        self._signs[ASLEEP] = 1
        fence()
        if not self._is_wanted():
            wait_readable((self._bell.reading, self._channel.fileno()), NAP_S)
        self._signs[ASLEEP] = 0
        self._bell.silence()
        return self._patience.waited(perf_counter_ns() - start)

    def _is_wanted(self) -> bool:
        return self._rings.has_any() or self._is_told()

    def _stalled(self) -> None:
        """While somebody does not read: we live, but is it still worth waiting?"""
        self._signs[BEATS] += 1
        if self._driver[EPOCH] != self._epoch:
            raise EpochOverError("An executor was lost.")

    def _resume(self, command: Resume) -> None:
        self._rings.restart()
        self._epoch = command.epoch
        self._is_paused = False


def first(channel: Channel) -> Open:
    """The driver's first command.

    Raises:
        ClosedError: The driver is gone.
        ExecutorError: It says something else.
    """
    while True:
        wait_readable((channel.fileno(),), NAP_S)
        for command in channel.receive():
            if not isinstance(command, Open):
                raise ExecutorError(f"An executor was told '{type(command).__name__}' before 'Open'.")
            return command


def _opener(plan: Plan, order: Open) -> StageOpener:
    """What opens stages, after the checks that the driver has made, too."""
    folder, model_folder = Path(order.folder), Path(order.model_folder)
    stages = (*phase_of(plan, "prefill").stages, *phase_of(plan, "decode").stages)
    parts = {stage.subgraph for stage in stages if stage.pool == order.pool}
    check_weights(read_table(folder), parts, model_folder)
    keeps_memory = not order.memory_bytes
    return StageOpener(folder, model_folder, order.threads, plan.files, keeps_memory=keeps_memory)


if __name__ == "__main__":
    main()
