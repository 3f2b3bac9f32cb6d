"""Executors' processes on the nodes of a Ray cluster: a guard for each, placed by its pool.

A node that declares the resource ``pool:NAME`` takes executors of that pool, one for each unit of it;
so does one that declares the name of the pool's system. Pools that no node declares are spread over
all nodes. All executors are reserved at once, in one placement group, so that two plans never hold
half of a cluster each; where a node is lost, Ray finds its executors another place in the group.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from time import monotonic
from typing import Any

import disaggc
from disaggc.errors import ExecutorError, JobError
from disaggc.plans import Plan
from disaggc.runtime.cluster.guard import Guard, read_fate, read_started
from disaggc.runtime.cluster.hosts import Fate, Started
from disaggc.runtime.handles import addresses_of
from disaggc.runtime.messages import Address
from disaggc.runtime.process import cores

CONNECT_S = 5.0
"""How long a cluster's head may take to answer the phone."""
_OBJECT_STORE_BYTES = 80 << 20
"""Of a cluster that is started for one run: nothing of ours goes through it."""
_CALLS = 4
"""Calls that a guard takes at a time: to watch, and to start or end meanwhile."""
_RETRY_S = 0.2


class RayHosts:
    """The nodes of a Ray cluster."""

    def __init__(
        self, plan: Plan, instances: Mapping[str, int], threads: int, address: str | None, seconds: float
    ) -> None:
        """Connect to a cluster and reserve a place for each executor.

        Args:
            plan: The plan, whose pools have systems.
            instances: Executors of each pool.
            threads: Threads, and so cores, of each.
            address: The cluster; None for the one that runs here, or else a new one on this machine.
            seconds: For the cluster to find room.

        Raises:
            ExecutorError: Ray is not installed, no cluster answers, or it has no room.
        """
        self._ray = load_ray()
        self._addresses = addresses_of(instances)
        self._guards: dict[Address, Any] = {}
        self._watches: dict[Address, Any] = {}
        self._pids: dict[Address, int] = {}
        self._is_ours = _connect(self._ray, address, len(self._addresses) * threads)
        self._group: Any = None
        try:
            self._bundles = bundles_of(plan, self._addresses, threads, self._ray.cluster_resources())
            self._group = self._reserve(seconds)
        except BaseException:
            self.close()
            raise

    def start(self, addresses: Sequence[Address], secret: str, seconds: float) -> Mapping[Address, Started]:
        """Start the process of each executor, by a new guard if its own is gone; see ``Hosts``."""
        end = monotonic() + seconds
        started: dict[Address, Started] = {}
        missing = list(addresses)
        while missing:
            calls = {address: self._call_start(address, secret) for address in missing}
            self._ray.wait(list(calls.values()), num_returns=len(calls), timeout=max(end - monotonic(), 0.0))
            for address, call in calls.items():
                found = self._answer(address, call, end)
                if found is not None:
                    started[address] = found
                    self._pids[address] = found.pid
                    self._watches[address] = self._guards[address].watch.remote()
            missing = [address for address in missing if address not in started]
            if missing and monotonic() > end:
                raise ExecutorError(
                    f"No node of the Ray cluster took executor {missing[0]} in {seconds:g} s. "
                    f"Look whether its nodes are alive: ray status."
                )
        return started

    def end(self, address: Address) -> None:
        """End an executor's process at once; does not wait."""
        guard, pid = self._guards.get(address), self._pids.get(address)
        if guard is not None and pid is not None:
            guard.end.remote(pid)

    def fate(self, address: Address, seconds: float) -> Fate:
        """How an executor's process ended; see ``Hosts``."""
        watch = self._watches.get(address)
        if watch is None:
            return Fate("it was not started")
        try:
            return read_fate(self._ray.get(watch, timeout=seconds))
        except self._ray.exceptions.GetTimeoutError:
            return Fate("it hung up, and its node does not say why")
        except self._ray.exceptions.RayError:
            return Fate("the node or the actor that it ran under was lost")

    def close(self) -> None:
        """End all guards, give back what was reserved, and leave the cluster."""
        if not self._ray.is_initialized():
            return
        for guard in self._guards.values():
            self._ray.kill(guard)
        self._guards.clear()
        self._watches.clear()
        if self._group is not None:
            with suppress(self._ray.exceptions.RayError):
                self._ray.util.remove_placement_group(self._group)
            self._group = None
        if self._is_ours:
            self._ray.shutdown()

    # placing -------------------------------------------------------------------------------------

    def _reserve(self, seconds: float) -> Any:
        """A placement group of a bundle for each executor.

        Raises:
            ExecutorError: The cluster has no room, in all or at this time.
        """
        group = self._ray.util.placement_group(self._bundles, strategy="SPREAD")
        if not group.wait(timeout_seconds=seconds):
            self._ray.util.remove_placement_group(group)
            raise ExecutorError(
                f"The Ray cluster found no room for {len(self._bundles)} executors in {seconds:g} s: "
                f"{_told(self._ray.available_resources())} are free, {_told(_total(self._bundles))} are "
                f"needed. Wait until others are done, or start nodes."
            )
        return group

    def _call_start(self, address: Address, secret: str) -> Any:
        if address not in self._guards:
            self._guards[address] = self._new_guard(address)
        return self._guards[address].start.remote(secret, *address, disaggc.__version__)

    def _new_guard(self, address: Address) -> Any:
        index = self._addresses.index(address)
        strategies = import_module("ray.util.scheduling_strategies")
        bundle = self._bundles[index]
        remote = self._ray.remote(Guard).options(
            num_cpus=bundle["CPU"],
            resources={name: count for name, count in bundle.items() if name != "CPU"},
            max_concurrency=_CALLS,
            scheduling_strategy=strategies.PlacementGroupSchedulingStrategy(self._group, index),
        )
        return remote.remote()

    def _answer(self, address: Address, call: Any, end: float) -> Started | None:
        """What a guard says; None if it is gone and a new one is to be asked.

        Raises:
            ExecutorError: There is none in time, or it cannot start the process.
        """
        try:
            return read_started(self._ray.get(call, timeout=0))
        except self._ray.exceptions.GetTimeoutError:
            wanted = self._bundles[self._addresses.index(address)]
            raise ExecutorError(
                f"No node of the Ray cluster took executor {address} in time: it needs {_told(wanted)}, and "
                f"nodes that are alive have {_told(self._ray.cluster_resources())} in all. Start a node in "
                f"place of one that was lost."
            ) from None
        except self._ray.exceptions.ActorUnavailableError:
            time.sleep(_RETRY_S)
            return None
        except self._ray.exceptions.RayActorError as error:
            self._guards.pop(address, None)
            if monotonic() > end or "creation" in str(error):
                raise ExecutorError(
                    f"Ray cannot start executor {address}: {_last_line(error)}. Install the same disaggc, "
                    f"and what it needs, on every node."
                ) from error
            return None
        except ExecutorError as error:
            raise ExecutorError(
                f"A node of the Ray cluster cannot take executor {address}: {error}. Install the same "
                f"disaggc on every node."
            ) from error


def load_ray() -> Any:
    """The library, which is not typed, and not installed unless it is asked for.

    Raises:
        JobError: It is not installed.
    """
    try:
        return import_module("ray")
    except ImportError as error:
        raise JobError(
            "--on ray needs Ray, which is not installed. Install it with: pip install 'disaggc[ray]'."
        ) from error


def _connect(ray: Any, address: str | None, executors: int) -> bool:
    """Connect to a cluster; whether it is for us to leave it.

    Raises:
        ExecutorError: None answers.
    """
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        _check_answers(address)
    try:
        ray.init(address=address or "auto", **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is not None:
            raise ExecutorError(
                f"No Ray cluster answers at '{address}': {_last_line(error)}. "
                f"Start one with: ray start --head."
            ) from error
        _start_here(ray, executors, quiet)
    return True


def _start_here(ray: Any, executors: int, quiet: Mapping[str, Any]) -> None:
    """A cluster of this machine alone, for as long as we run."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=max(cores(), executors),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        **quiet,
    )


def _check_answers(address: str) -> None:
    """Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise ExecutorError(
            f"No Ray cluster answers at '{address}' ({error.strerror or error}). Start one with: "
            f"ray start --head, and give its address."
        ) from error


def bundles_of(
    plan: Plan, addresses: Sequence[Address], threads: int, declared: Mapping[str, float]
) -> list[dict[str, float]]:
    """What each executor needs of a node.

    Raises:
        ExecutorError: All nodes together have less.
    """
    systems = {pool.name: pool.system for pool in plan.pools}
    bundles: list[dict[str, float]] = []
    for address in addresses:
        whole = address.pool.partition("/")[0]  # of which this may be a shard
        names = (f"pool:{address.pool}", f"pool:{whole}", systems.get(address.pool, ""))
        resource = next((name for name in names if declared.get(name)), None)
        bundles.append({"CPU": float(threads)} | ({resource: 1.0} if resource else {}))
    for name, needed in _total(bundles).items():
        if needed > declared.get(name, 0.0):
            raise ExecutorError(
                f"The Ray cluster has {declared.get(name, 0.0):g} of '{name}' in all, and {len(bundles)} "
                f"executors need {needed:g}. Start more nodes, or run with fewer --instances or --threads."
            )
    return bundles


def _total(bundles: Sequence[Mapping[str, float]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for bundle in bundles:
        total.update(bundle)
    return total


def _told(resources: Mapping[str, float]) -> str:
    """Resources in words: those that executors ask for."""
    told = [
        f"{count:g} of '{name}'"
        for name, count in sorted(resources.items())
        if not name.startswith(("node:", "object_store", "memory", "bundle_")) and "_group_" not in name
    ]
    return ", ".join(told) or "nothing"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
