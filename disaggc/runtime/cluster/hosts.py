"""Who starts executors on machines and watches over them: what a transport needs of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from disaggc.runtime.messages import Address


@dataclass(frozen=True, slots=True)
class Started:
    """An executor's process that waits to be told what it is.

    Attributes:
        cores: Of the machine, as far as they may be used.
        node: The machine's name, for people.
        host, port: Where it takes connections.
        pid: Its number on that machine.
        guard_pid: That of the process which watches it.
        node_id: The machine's name for whoever places executors.
    """

    node: str
    host: str
    port: int
    pid: int
    guard_pid: int
    cores: int
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Fate:
    """How an executor's process ended.

    Attributes:
        reason: In words.
        group: The micro-batch that it worked on, if that is known.
    """

    reason: str
    group: int | None = None


class Hosts(Protocol):
    """Machines that executors run on."""

    def start(self, addresses: Sequence[Address], secret: str, seconds: float) -> Mapping[Address, Started]:
        """Start the process of each executor, on another machine if its own is gone.

        Args:
            addresses: The executors; one that still runs is ended first.
            secret: What all processes of the run know.
            seconds: For all of it.

        Raises:
            ExecutorError: No machine can take one of them.
        """

    def end(self, address: Address) -> None:
        """End an executor's process at once; does not wait."""

    def fate(self, address: Address, seconds: float) -> Fate:
        """How an executor's process ended, if that can be found out in time."""

    def close(self) -> None:
        """End all processes, and leave nothing behind."""
