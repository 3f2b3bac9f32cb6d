"""Machines for tests: guards in this process, each with an executor's process of its own; and Ray's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from contextlib import contextmanager
from pathlib import Path

import disaggc
from disaggc.plans import Plan
from disaggc.runtime import Deployment, Execution
from disaggc.runtime.cluster import Cluster
from disaggc.runtime.cluster.guard import Guard, read_fate, read_started
from disaggc.runtime.cluster.hosts import Fate, Started
from disaggc.runtime.execution import instances_of
from disaggc.runtime.messages import Address


class GuardsHere:
    """Hosts without Ray: everything else is as it is with it."""

    def __init__(self) -> None:
        self.guards: dict[Address, Guard] = {}
        self._started: dict[Address, Started] = {}
        self._watches: dict[Address, Future[str]] = {}
        self._threads = ThreadPoolExecutor(max_workers=32)

    def start(self, addresses: Sequence[Address], secret: str, seconds: float) -> Mapping[Address, Started]:
        assert seconds > 0
        started = {}
        for address in addresses:
            guard = self.guards.setdefault(address, Guard("127.0.0.1"))
            started[address] = self._started[address] = read_started(
                guard.start(secret, *address, disaggc.__version__)
            )
            self._watches[address] = self._threads.submit(guard.watch)
        return started

    def end(self, address: Address) -> None:
        self.guards[address].end(self._started[address].pid)

    def fate(self, address: Address, seconds: float) -> Fate:
        try:
            return read_fate(self._watches[address].result(seconds))
        except NotYetError:
            return Fate("it hung up")

    def close(self) -> None:
        for address in self.guards:
            self.end(address)
        self._threads.shutdown()


@contextmanager
def cluster(
    plan: Plan, folder: Path, path: Path, execution: Execution, hosts: GuardsHere | None = None
) -> Iterator[tuple[Deployment, Cluster]]:
    """The plan on machines that are all this one, and the transport below."""
    transport = Cluster(
        plan, folder, path.parent, instances_of(plan, execution), 1, execution, hosts or GuardsHere()
    )
    with Deployment(plan, transport, execution) as deployment:
        yield deployment, transport
