"""One worker process, as its driver sees it."""

from __future__ import annotations

import dataclasses
import hmac
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import disaggc
from disaggc.errors import ExecutorError
from disaggc.records import unstructure
from disaggc.runtime.arena import BEATS, COMMANDS, GROUP, WORK, Layout, Signs, attach, clear, create
from disaggc.runtime.bell import Bell
from disaggc.runtime.channel import Channel, ClosedError
from disaggc.runtime.commands import Command, Open, Opened, StagePorts
from disaggc.runtime.handles import Handles
from disaggc.runtime.memory import NO_MEMORY
from disaggc.runtime.messages import DRIVER, Address
from disaggc.runtime.pages import with_huge_pages
from disaggc.runtime.tensors import Array

_MOMENT_S = 0.2


@dataclass(frozen=True, slots=True)
class Shared:
    """What all processes of a run share."""

    layout: Layout
    secret: str
    descriptor: int
    memory: Array
    bells: Mapping[Address, Bell]

    @classmethod
    def create(cls, layout: Layout, secret: str) -> Shared:
        """Ask the system for it.

        Raises:
            ExecutorError: It has none.
        """
        descriptor = create(layout)
        bells = {address: Bell.create() for address in (DRIVER, *layout.addresses)}
        return cls(layout, secret, descriptor, attach(descriptor, layout), bells)

    def clear_rings(self) -> None:
        """Empty all rings; nobody may use them meanwhile."""
        for source, target in self.layout.pairs:
            self.layout.ring(self.memory, source, target).clear()

    def close(self) -> None:
        """Give it back; the memory goes when nobody looks at it any more."""
        os.close(self.descriptor)
        for bell in self.bells.values():
            bell.close()


class Process:
    """A worker process."""

    def __init__(
        self, address: Address, popen: subprocess.Popen[bytes], channel: Channel, lifeline: int, signs: Signs
    ) -> None:
        self.address = address
        self.channel = channel
        self.signs = signs
        self.is_lost = False
        self.opened: tuple[StagePorts, ...] = ()
        self._popen = popen
        self._lifeline = lifeline
        self._seen = {BEATS: (0, monotonic()), WORK: (0, monotonic())}

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._popen.pid

    @property
    def group(self) -> int | None:
        """The micro-batch that it works on."""
        number = self.signs[GROUP]
        return number - 1 if number else None

    def tell(self, command: Command) -> None:
        """Send it a command.

        Raises:
            ClosedError: It is gone.
        """
        self.channel.send(command)
        self.signs[COMMANDS] += 1

    def expect(self) -> None:
        """It has something to do from now on; that it was idle before means nothing."""
        self._seen[WORK] = (self.signs[WORK], monotonic())

    def hear(self) -> list[Command]:
        """What it has said; notes if it is gone."""
        heard: list[Command] = []
        if self.is_lost:
            return heard
        try:
            self.channel.flush()
            heard.extend(self.channel.receive())
        except ClosedError:
            self.is_lost = True
        return heard

    def take(self, answer: Opened, secret: str) -> None:
        """Note what it opened.

        Raises:
            ExecutorError: It is somebody else.
        """
        if not hmac.compare_digest(answer.secret, secret):
            raise ExecutorError(f"Somebody else than executor {self.address} answers. Run it again.")
        self.opened = answer.stages
        self._seen = {BEATS: (0, monotonic()), WORK: (0, monotonic())}

    def trouble(self, now: float, deadline_s: float) -> str:
        """Why it is lost: it ended, or shows no sign of life; '' if it is well."""
        code = self._exit_code()
        if code is not None:
            return ending(code)
        if self.is_lost:
            return "it hung up"
        if self._still(BEATS, now) > deadline_s:
            return f"it showed no sign of life for {deadline_s:g} s"
        return ""

    def _exit_code(self) -> int | None:
        """How it ended; one that hung up is given a moment to have ended."""
        if not self.is_lost:
            return self._popen.poll()
        with suppress(subprocess.TimeoutExpired):
            return self._popen.wait(_MOMENT_S)
        return None

    def is_idle(self, now: float, deadline_s: float) -> bool:
        """Whether it has done nothing for so long."""
        return self._still(WORK, now) > deadline_s

    def kill(self) -> None:
        """End it at once."""
        self.is_lost = True
        self._popen.kill()
        self._popen.wait()
        self._let_go()

    def end(self, deadline: float) -> None:
        """Let it end by itself until a point of the monotonic clock; then end it."""
        try:
            self._popen.wait(max(deadline - monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._let_go()

    def _let_go(self) -> None:
        self.channel.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _still(self, field: int, now: float) -> float:
        """Seconds since one of its signs last changed."""
        value, since = self._seen[field]
        if self.signs[field] != value:
            self._seen[field] = (self.signs[field], now)
            return 0.0
        return now - since


def cores() -> int:
    """Of this machine, as far as this process may use them."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def ending(code: int) -> str:
    """How a process ended."""
    if code == NO_MEMORY:
        return "it ran out of memory"
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"


def start(shared: Shared, address: Address, order: Open) -> Process:
    """Start a worker process and tell it who it is.

    Raises:
        ExecutorError: The system starts no process.
    """
    signs = shared.layout.signs(shared.memory, address)
    clear(signs)
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    bells = tuple(shared.bells[a].writing for a in (DRIVER, *shared.layout.addresses))
    handles = Handles(
        shared.secret, theirs.fileno(), reading, shared.descriptor, shared.bells[address].reading, bells
    )
    try:
        popen = spawn("disaggc.runtime.worker", handles, handles.descriptors)
    except OSError as error:
        raise ExecutorError(f"The system starts no process for {address}: {error.strerror}.") from error
    finally:
        theirs.close()
        os.close(reading)
    process = Process(address, popen, Channel(ours), writing, signs)
    process.tell(dataclasses.replace(order, pool=address.pool, instance=address.instance))
    return process


def spawn(module: str, handles: object, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """A fresh interpreter, with this package, in a session of its own: Ctrl-C is the driver's alone.

    It asks for huge pages.

    Args:
        module: What it runs.
        handles: A record that it reads, as a line of JSON, from its standard input.
        descriptors: What it inherits.
    """
    root = str(Path(disaggc.__file__).resolve().parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    popen = subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        pass_fds=descriptors,
        start_new_session=True,
        env={**with_huge_pages(os.environ), "PYTHONPATH": paths},
    )
    assert popen.stdin is not None
    with popen.stdin as pipe:
        pipe.write(json.dumps(unstructure(handles)).encode() + b"\n")
    return popen
