"""Executors on many machines: Ray says where they run, messages go straight from one to the other.

    driver ──orders, results (TCP)──> executor <──activations (TCP)──> executor
      │                                  │ a process, `node`
      └──Ray: place, start, watch──> guard, an actor on the executor's machine

``transport`` carries out the runtime's one interface over ``hosts``, whoever provides those;
``ray_hosts`` does so with Ray, ``guard`` is its actor. ``handshake``, ``listener``, ``wire`` and
``sockets`` bring messages over a network. Nothing but texts and numbers is given to Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from disaggc.plans import Plan
from disaggc.runtime.cluster.ray_hosts import RayHosts
from disaggc.runtime.cluster.transport import Cluster
from disaggc.runtime.execution import Execution


def on_cluster(
    plan: Plan,
    folder: Path,
    model_folder: Path,
    instances: Mapping[str, int],
    threads: int,
    execution: Execution,
) -> Cluster:
    """Executors on the nodes of a Ray cluster; see ``Cluster`` and ``RayHosts``."""
    hosts = RayHosts(plan, instances, threads, execution.address, execution.start_s)
    return Cluster(plan, folder, model_folder, instances, threads, execution, hosts)


__all__ = ["Cluster", "RayHosts", "on_cluster"]
