"""Keeps one executor's process on the machine where it was placed, and says how it ended.

The executor is a process of its own, without Ray in it: its memory can be bounded, its crash is seen
by who survives it, and no byte that it reads is ever unpickled. When the guard goes, however it goes,
so does the executor (see ``node``). Arguments and results are texts and numbers.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from dataclasses import dataclass
from importlib import import_module

import disaggc
from disaggc.errors import ExecutorError
from disaggc.records import structure, unstructure
from disaggc.runtime.arena import GROUP, Layout, Signs, attach, create
from disaggc.runtime.cluster.hosts import Fate, Started
from disaggc.runtime.messages import Address
from disaggc.runtime.process import cores, ending, spawn

_WAITING = 256
"""Connections that may wait to be taken."""


@dataclass(frozen=True, slots=True)
class NodeHandles:
    """What an executor's process is given: descriptors by number, and the secret of the run."""

    secret: str
    node: str
    listening: int
    lifeline: int
    board: int
    pool: str
    instance: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return (self.listening, self.lifeline, self.board)


class Guard:
    """The actor; its methods may be called while ``watch`` waits."""

    def __init__(self, host: str = "") -> None:
        """Prepare on this machine.

        Args:
            host: The address at which others reach it; Ray knows it where nothing is said.
        """
        self._host, self._node_id = (host, "") if host else _node()
        self._turn = threading.Lock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._signs: Signs | None = None

    def start(self, secret: str, pool: str, instance: int, version: str) -> str:
        """Start the executor's process; a ``Started``, or what is wrong here, as JSON.

        Args:
            secret: Of the run.
            pool: Whose process it is.
            instance: And which of the pool's.
            version: The driver's.
        """
        if version != disaggc.__version__:
            return json.dumps({"error": f"it has disaggc {disaggc.__version__}, and the driver {version}"})
        try:
            with self._turn:
                self._end()
                started = self._start(secret, Address(pool, instance))
        except (OSError, ExecutorError) as error:
            return json.dumps({"error": f"the system starts no process: {error}"})
        return json.dumps(unstructure(started))

    def watch(self) -> str:
        """Wait until the process has ended; a ``Fate`` as JSON."""
        popen, signs = self._popen, self._signs
        if popen is None or signs is None:
            return json.dumps({"reason": "it was not started"})
        code = popen.wait()
        group = signs[GROUP] - 1
        return json.dumps(unstructure(Fate(ending(code), group if group >= 0 else None)))

    def end(self, pid: int) -> None:
        """End the process at once, if it still is this one: calls may overtake each other."""
        with self._turn:
            if self._popen is not None and self._popen.pid == pid:
                self._end()

    def _end(self) -> None:
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _start(self, secret: str, own: Address) -> Started:
        layout = Layout((own,), heap_bytes=0)
        board = create(layout)
        reading, writing = os.pipe()
        with socket.create_server((self._host, 0), backlog=_WAITING) as listening:
            try:
                handles = NodeHandles(
                    secret, self._name, listening.fileno(), reading, board, own.pool, own.instance
                )
                self._popen = spawn("disaggc.runtime.cluster.node", handles, handles.descriptors)
                self._signs = layout.signs(attach(board, layout), own)
                port = listening.getsockname()[1]
            finally:
                os.close(board)
                os.close(reading)
                self._lifeline = writing
        return Started(self._name, self._host, port, self._popen.pid, os.getpid(), cores(), self._node_id)

    @property
    def _name(self) -> str:
        return f"{socket.gethostname()} ({self._host})"


def _node() -> tuple[str, str]:
    """This machine's address and name in the cluster."""
    ray = import_module("ray")
    return str(ray.util.get_node_ip_address()), str(ray.get_runtime_context().get_node_id())


def read_started(text: str) -> Started:
    """What ``Guard.start`` says.

    Raises:
        ExecutorError: It did not start anything, and why.
    """
    data = json.loads(text)
    if "error" in data:
        raise ExecutorError(data["error"])
    return structure(data, Started, "started", ExecutorError)


def read_fate(text: str) -> Fate:
    """What ``Guard.watch`` says."""
    return structure(json.loads(text), Fate, "fate", ExecutorError)
