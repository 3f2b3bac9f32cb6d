"""A Ray cluster of several nodes: executors are placed by pool, and outlive processes and nodes."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from disaggc.errors import ExecutorError, JobError
from disaggc.plans import Plan
from disaggc.runtime import Deployment, Execution, Request, run, verify
from disaggc.runtime.cluster import Cluster, on_cluster
from disaggc.runtime.execution import instances_of
from disaggc.runtime.messages import Address

from .fleets import PROMPTS, all_gone, cut
from .splitting import contiguous, read, split
from .test_faults import Saboteur
from .test_processes import TINY

NODES: tuple[dict[str, int], ...] = ({}, {"pool:attention": 2, "pool:prefill": 1}, {"pool:experts": 2})
"""What each node declares; the first is the head."""
CPUS = 3
"""Cores of each node, whatever this machine has."""
STEPS = 20
OBJECT_STORE_BYTES = 80 << 20
SETTINGS = {
    "prestart_worker_first_driver": False,
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}
"""No processes in advance, and a lost node is noticed in a second instead of half a minute."""


class Nodes:
    """The cluster, and its nodes by number."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.address: str = cluster.address
        self._by_id: dict[str, Any] = {cluster.head_node.node_id: cluster.head_node}

    def add(self, resources: dict[str, int]) -> None:
        node = self.cluster.add_node(
            num_cpus=CPUS, object_store_memory=OBJECT_STORE_BYTES, resources=resources
        )
        self._by_id[node.node_id] = node

    def lose(self, transport: Cluster, address: Address) -> None:
        """The machine that an executor runs on is gone from one moment to the next."""
        node = self._by_id[self.of(transport)[address]]
        assert node is not self.cluster.head_node, "the driver's node"
        lost = [a for a, other in self.of(transport).items() if self._by_id[other] is node]
        self.cluster.remove_node(node, allow_graceful=False)
        for one in lost:
            os.kill(transport.members[one].started.guard_pid, signal.SIGKILL)

    def of(self, transport: Cluster) -> dict[Address, str]:
        """The node of each executor, as Ray knows it."""
        return {address: member.started.node_id for address, member in transport.members.items()}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="Ray is not installed")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster as RayCluster

    head = {
        "num_cpus": CPUS,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_system_config": SETTINGS,
    }
    try:
        found = Nodes(RayCluster(initialize_head=True, head_node_args=head))
    except Exception as error:  # noqa: BLE001 - whatever this machine lacks for Ray
        pytest.skip(f"Ray does not start here: {error}")
    for resources in NODES[1:]:
        found.add(resources)
    yield found
    started = [p.process.pid for node in found.cluster.list_all_nodes() for p in _processes(node)]
    found.cluster.shutdown()
    assert started
    assert all_gone(started), "a process of Ray was left behind"


def _processes(node: Any) -> list[Any]:
    return [process for processes in node.all_processes.values() for process in processes]


def on(nodes: Nodes, **choices: Any) -> Execution:
    """Two micro-batches of at most two requests for each instance, on the cluster."""
    return Execution(
        on="ray", address=nodes.address, micro_batch=2, micro_batches=2, deadline_s=20.0, **choices
    )


@contextmanager
def opened(plan: Plan, folder: Path, execution: Execution) -> Iterator[tuple[Deployment, Cluster]]:
    transport = on_cluster(plan, folder, TINY.parent, instances_of(plan, execution), 1, execution)
    with Deployment(plan, transport, execution) as deployment:
        yield deployment, transport


def undeclared(folder: Path) -> Plan:
    """A plan of pools that no node declares."""
    return split(TINY, folder, contiguous(read(TINY), 4, seed=3), pools=("left", "right"))


@pytest.mark.parametrize(
    ("prefill_pool", "instances"),
    [(None, {}), ("prefill", {}), (None, {"attention": 2, "experts": 1})],
    ids=["afd", "prefill-decode", "two-to-one"],
)
def test_a_plan_runs_unchanged_on_the_nodes_that_declare_its_pools(
    tmp_path: Path, nodes: Nodes, prefill_pool: str | None, instances: dict[str, int]
) -> None:
    plan = cut(TINY, tmp_path, prefill_pool)
    execution = on(nodes, instances=instances)
    whole = run(plan, tmp_path, TINY.parent, PROMPTS, STEPS).tokens
    with opened(plan, tmp_path, execution) as (deployment, transport):
        found = deployment.generate(PROMPTS, STEPS)
        where = nodes.of(transport)
        pids = [pid for m in transport.members.values() for pid in (m.started.pid, m.started.guard_pid)]
    assert found.tokens == whole
    assert len(where) == sum(instances_of(plan, execution).values())
    experts = {node for address, node in where.items() if address.pool == "experts"}
    others = {node for address, node in where.items() if address.pool != "experts"}
    assert len(experts) == len(others) == 1
    assert experts != others
    assert all_gone(pids)


def test_verify_finds_the_uncut_models_tokens_on_ray(
    tmp_path: Path, nodes: Nodes, shared_models: Path
) -> None:
    path = shared_models / "qwen3_moe.batched_mm.dynamo.op23.onnx"
    plan = cut(path, tmp_path)
    found = verify(plan, tmp_path, path.parent, PROMPTS, 8, execution=on(nodes))
    assert found.tokens_equal
    assert found.difference <= 1e-5 * found.magnitude


def test_executors_whose_actors_are_killed_at_random_moments_change_no_token(
    tmp_path: Path, nodes: Nodes
) -> None:
    draw = random.Random(5)
    plan = cut(TINY, tmp_path, "prefill")
    requests = [Request((5, 7, 11), 120), Request((1, 2, 3, 4, 5, 6), 75), Request((9, 8, 7), 100)]
    whole = run(plan, tmp_path, TINY.parent, [r.prompt for r in requests], 120).tokens
    hit: list[int] = []
    with opened(plan, tmp_path, on(nodes)) as (deployment, transport):
        for _ in range(2):
            victim = draw.choice([*transport.members])

            def harm(address: Address = victim) -> None:
                started = transport.members[address].started
                hit.extend((started.pid, started.guard_pid))
                os.kill(draw.choice(hit[-2:]), signal.SIGKILL)

            with Saboteur(harm, draw.uniform(0.0, 0.1)):
                found = deployment.serve(requests)
            assert not found.failures
            for request, tokens, all_tokens in zip(requests, found.tokens, whole, strict=True):
                assert tokens == all_tokens[: request.max_new_tokens]
        assert deployment.generate([[5, 7, 11]], 3).tokens == (whole[0][:3],)
    assert all_gone(hit)


def test_executors_of_a_node_that_is_lost_go_on_elsewhere(tmp_path: Path, nodes: Nodes) -> None:
    plan = undeclared(tmp_path)
    whole = run(plan, tmp_path, TINY.parent, PROMPTS, 300).tokens
    with opened(plan, tmp_path, on(nodes, instances={"left": 2})) as (deployment, transport):
        before = nodes.of(transport)
        assert len(set(before.values())) == 3, "executors of pools that no node declares are spread"
        victim = next(a for a, node in before.items() if node != nodes.cluster.head_node.node_id)
        resources = NODES[[*nodes._by_id].index(before[victim])]
        try:
            with Saboteur(lambda: nodes.lose(transport, victim), 0.05):
                found = deployment.generate(PROMPTS, 300)
            after = nodes.of(transport)
        finally:
            nodes.add(resources)
    assert found.tokens == whole
    assert found.restarts >= 1
    assert after[victim] != before[victim]
    assert after[victim] in before.values()


def test_a_lost_node_that_nothing_can_replace_is_an_error_before_the_deadline(
    tmp_path: Path, nodes: Nodes
) -> None:
    nodes.add({"pool:left": 1})
    plan = undeclared(tmp_path)
    execution = replace(on(nodes), start_s=8.0)
    left: list[int] = []
    start = time.monotonic()
    with (
        pytest.raises(ExecutorError) as caught,
        opened(plan, tmp_path, execution) as (deployment, transport),
    ):
        left = [m.started.pid for m in transport.members.values()]
        with Saboteur(lambda: nodes.lose(transport, Address("left", 0)), 0.05):
            start = time.monotonic()
            deployment.generate(PROMPTS, 3000)
    assert time.monotonic() - start < 60
    assert str(caught.value).startswith(
        "No node of the Ray cluster took executor left[0] in time: it needs 1 of 'CPU', 1 of 'pool:left'"
    )
    assert all_gone(left)


def test_a_cluster_without_room_is_told_at_once_with_what_is_missing(tmp_path: Path, nodes: Nodes) -> None:
    plan = cut(TINY, tmp_path)
    execution = on(nodes, instances={"experts": 3})
    with pytest.raises(
        ExecutorError,
        match=r"The Ray cluster has 2 of 'pool:experts' in all, and 4 executors need 3\. Start more nodes",
    ):
        run(plan, tmp_path, TINY.parent, PROMPTS, 1, execution=execution)


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    plan = cut(TINY, tmp_path)
    with pytest.raises(ExecutorError, match=r"No Ray cluster answers at '127\.0\.0\.1:1' \(Conn"):
        run(plan, tmp_path, TINY.parent, PROMPTS, 1, execution=Execution(on="ray", address="127.0.0.1:1"))


def test_without_ray_the_extra_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = cut(TINY, tmp_path)
    with pytest.raises(JobError, match=r"Install it with: pip install 'disaggc\[ray\]'\."):
        run(plan, tmp_path, TINY.parent, PROMPTS, 1, execution=Execution(on="ray"))
