"""Executors among machines that are all this one: same tokens, faults, trust, and nothing left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import disaggc
from disaggc.errors import ExecutorError, PlanError
from disaggc.runtime import run
from disaggc.runtime.arena import GROUP, WORK
from disaggc.runtime.cluster import Cluster
from disaggc.runtime.cluster.guard import Guard
from disaggc.runtime.cluster.handshake import HandshakeError, Hello, dial
from disaggc.runtime.cluster.hosts import Started
from disaggc.runtime.cluster.listener import Listener
from disaggc.runtime.cluster.ray_hosts import bundles_of
from disaggc.runtime.cluster.sockets import Sockets
from disaggc.runtime.messages import Address, Kind, Message
from disaggc.runtime.tensors import view, wrap

from .fleets import PROMPTS, all_gone, cut, on_processes
from .machines import GuardsHere, cluster
from .test_faults import REQUESTS, Saboteur, expected
from .test_processes import TINY

STEPS = 20
A, B = Address("a", 0), Address("b", 0)


def pids(transport: Cluster) -> dict[Address, int]:
    return {address: member.started.pid for address, member in transport.members.items()}


@pytest.mark.parametrize("prefill_pool", [None, "prefill"])
def test_machines_generate_what_one_process_does(tmp_path: Path, prefill_pool: str | None) -> None:
    plan = cut(TINY, tmp_path, prefill_pool)
    whole = run(plan, tmp_path, TINY.parent, PROMPTS, STEPS, keep_logits=True)
    with cluster(plan, tmp_path, TINY, on_processes()) as (deployment, _):
        found = deployment.generate(PROMPTS, STEPS, keep_logits=True)
    assert found.tokens == whole.tokens
    for ours, theirs in zip(found.logits, whole.logits, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (found.handed_over > 0) == (prefill_pool is not None)


def test_a_message_larger_than_all_buffers_arrives(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path, "prefill")
    prompt = [[i % 500 for i in range(3000)]]
    whole = run(plan, tmp_path, TINY.parent, prompt, 3)
    with cluster(plan, tmp_path, TINY, on_processes()) as (deployment, _):
        found = deployment.generate(prompt, 3)
    assert found.tokens == whole.tokens
    assert found.handed_over > 1 << 20


@pytest.mark.parametrize(("number", "rounds"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 1)])
def test_executors_lost_at_random_moments_change_no_token(
    tmp_path: Path, number: signal.Signals, rounds: int
) -> None:
    draw = random.Random(int(number))
    whole = expected(tmp_path)
    plan = cut(TINY, tmp_path, "prefill")
    hit: list[int] = []
    with cluster(plan, tmp_path, TINY, on_processes(deadline_s=2.0)) as (deployment, transport):
        for _ in range(rounds):
            victim = draw.choice([*transport.members])

            def harm(address: Address = victim) -> None:
                hit.append(pids(transport)[address])
                os.kill(hit[-1], number)

            with Saboteur(harm, draw.uniform(0.0, 0.1)):
                found = deployment.serve(REQUESTS)
            assert not found.failures
            for request, tokens, all_tokens in zip(REQUESTS, found.tokens, whole.tokens, strict=True):
                assert tokens == all_tokens[: request.max_new_tokens]
        deployment.serve(REQUESTS)
    assert all_gone(hit)


def test_an_idle_executor_that_dies_is_replaced_by_the_next_run(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    whole = run(plan, tmp_path, TINY.parent, [[1, 2, 3]], 10).tokens
    with cluster(plan, tmp_path, TINY, on_processes()) as (deployment, transport):
        for pid in pids(transport).values():
            os.kill(pid, signal.SIGKILL)
        found = deployment.generate([[1, 2, 3]], 10)
    assert found.tokens == whole
    assert found.restarts == 2


class Killer:
    """Ends whoever takes long over one stage, as a kernel without memory would."""

    def __init__(self, hosts: GuardsHere) -> None:
        self.killed = 0
        self._hosts = hosts
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        seen: dict[Address, tuple[object, float]] = {}
        while not self._is_over.wait(0.01):
            for address, guard in tuple(self._hosts.guards.items()):
                board, popen = guard._signs, guard._popen
                if board is None or popen is None or not board[GROUP]:
                    continue
                sign = (popen.pid, board[GROUP], board[WORK])
                known, since = seen.get(address, (None, 0.0))
                if known != sign:
                    seen[address] = (sign, time.monotonic())
                elif time.monotonic() - since > 0.1 and popen.poll() is None:
                    popen.kill()
                    self.killed += 1


def test_a_request_that_costs_executors_again_and_again_is_given_up_alone(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    prompts = [[1, 2, 3], [i % 500 for i in range(6000)], [4, 4]]
    whole = run(plan, tmp_path, TINY.parent, [prompts[0], prompts[2]], STEPS).tokens
    hosts = GuardsHere()
    with cluster(plan, tmp_path, TINY, on_processes(), hosts) as (deployment, _), Killer(hosts) as killer:
        found = deployment.generate(prompts, STEPS)
    assert killer.killed >= 3
    assert found.tokens == (whole[0], (), whole[1])
    assert "Request 1 was given up: 3 times in a row an executor was lost over its token 0" in str(
        found.failures[1]
    )
    assert "it was ended by signal 9" in str(found.failures[1])


class Rationed(GuardsHere):
    """Machines that start so many processes and no more."""

    def __init__(self, processes: int) -> None:
        super().__init__()
        self._left = processes

    def start(self, addresses: Sequence[Address], secret: str, seconds: float) -> Mapping[Address, Started]:
        self._left -= len(addresses)
        if self._left < 0:
            raise ExecutorError("No node took the executor. Start one.")
        return super().start(addresses, secret, seconds)


def test_what_nothing_can_replace_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    left: list[int] = []
    with (
        pytest.raises(ExecutorError, match=r"No node took the executor\. Start one\."),
        cluster(plan, tmp_path, TINY, on_processes(), Rationed(2)) as (deployment, transport),
    ):
        left.extend(pids(transport).values())
        os.kill(left[0], signal.SIGKILL)
        deployment.generate([[1, 2, 3]], 10)
    assert all_gone(left)


def test_a_plan_folder_that_a_machine_lacks_is_named_with_it(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path / "plan")
    with cluster(plan, tmp_path / "plan", TINY, on_processes()) as (deployment, transport):
        (tmp_path / "plan").rename(tmp_path / "elsewhere")
        os.kill(pids(transport)[Address("experts", 0)], signal.SIGKILL)
        with pytest.raises(PlanError) as caught:
            deployment.generate([[1, 2, 3]], 10)
    assert str(caught.value) == (
        f"On node {socket.gethostname()} (127.0.0.1): There is no plan folder '{tmp_path / 'plan'}'. "
        f"Copy it to the same path on every node, or keep it on a file system that all nodes share."
    )


def test_a_subgraph_that_was_changed_on_a_machine_is_named_with_it(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    name = plan.decode.stages[1].subgraph
    plan = replace(plan, files={name: "0" * 64})
    with (
        pytest.raises(PlanError, match=rf"On node .* \(127.0.0.1\): '{name}' in plan .* was changed after"),
        cluster(plan, tmp_path, TINY, on_processes()),
    ):
        pass


def test_an_executor_ends_with_its_guard_and_with_its_driver(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    hosts = GuardsHere()
    with cluster(plan, tmp_path, TINY, on_processes(), hosts) as (_, transport):
        first, second = transport.members
        os.close(hosts.guards[first]._lifeline)
        hosts.guards[first]._lifeline = -1
        transport.members[second].channel.close()
        assert all_gone([*pids(transport).values()])
        transport.members[second].is_lost = True


def test_executors_ask_for_what_nodes_declare_of_their_pool_or_their_system(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    wanted = [Address("attention", 0), Address("experts/0", 0), Address("experts/1", 0)]
    declared = {"CPU": 8.0, "pool:experts": 1.0, "pool:experts/1": 1.0}
    assert bundles_of(plan, wanted, 2, declared) == [
        {"CPU": 2.0},
        {"CPU": 2.0, "pool:experts": 1.0},
        {"CPU": 2.0, "pool:experts/1": 1.0},
    ]
    with pytest.raises(ExecutorError, match=r"has 8 of 'CPU' in all, and 3 executors need 9\."):
        bundles_of(plan, wanted, 3, declared)


# trust -------------------------------------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_both_ends_of_a_connection_prove_that_they_are_of_one_run(listening: socket.socket) -> None:
    listener = Listener(listening, "secret")
    port = listening.getsockname()[1]
    ours = dial("127.0.0.1", port, "secret", Hello("peer", "a", 1, 7))
    theirs = listener.take(Hello("peer", "a", 1, 7), 10)
    assert theirs is not None
    theirs.sendall(b"hello")
    assert ours.recv(5) == b"hello"
    assert listener.take(Hello("peer", "a", 1, 8), 0.01) is None


def test_whoever_does_not_know_the_secret_is_not_let_in(listening: socket.socket) -> None:
    listener = Listener(listening, "secret")
    port = listening.getsockname()[1]
    with pytest.raises(HandshakeError, match="somebody answers that is not of this run"):
        dial("127.0.0.1", port, "guess", Hello("orders"))
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(bytes(32))
        assert len(stranger.recv(64, socket.MSG_WAITALL)) == 64
        stranger.sendall(bytes(32) + b"\2\0{}")
        assert stranger.recv(1) == b"", "it is hung up on"
    assert listener.take(Hello("orders"), 0.01) is None


def test_a_proof_cannot_be_sent_back_as_ones_own(listening: socket.socket) -> None:
    """A stranger in between who reflects what the called end says proves nothing."""
    Listener(listening, "secret")
    with socket.create_connection(listening.getsockname()) as stranger:
        stranger.sendall(bytes(32))
        answer = stranger.recv(64, socket.MSG_WAITALL)
        stranger.sendall(answer[32:] + b"\2\0{}")
        assert stranger.recv(1) == b""


def test_the_secret_is_never_sent(listening: socket.socket) -> None:
    secret = "f" * 64
    heard = bytearray()

    def relay() -> None:
        ours, _ = listening.accept()
        with ours, socket.socketpair()[0], socket.create_connection(server.getsockname()) as theirs:
            for one, other, size in ((ours, theirs, 32), (theirs, ours, 64), (ours, theirs, 34)):
                data = one.recv(size, socket.MSG_WAITALL)
                heard.extend(data)
                other.sendall(data)
            body = ours.recv(4096)
            heard.extend(body)
            theirs.sendall(body)
            ours.sendall(theirs.recv(1))

    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = Listener(server, secret)
        thread = threading.Thread(target=relay)
        thread.start()
        dial("127.0.0.1", listening.getsockname()[1], secret, Hello("orders")).close()
        thread.join(10)
        assert listener.take(Hello("orders"), 10) is not None
    assert b"orders" in heard
    assert secret.encode() not in heard
    assert bytes.fromhex(secret) not in heard


def test_a_caller_that_says_nothing_does_not_keep_others_out(listening: socket.socket) -> None:
    listener = Listener(listening, "secret")
    with socket.create_connection(listening.getsockname()):
        dial("127.0.0.1", listening.getsockname()[1], "secret", Hello("orders")).close()
        assert listener.take(Hello("orders"), 10) is not None


def test_a_guard_starts_nothing_for_a_driver_of_another_version() -> None:
    said = json.loads(Guard("127.0.0.1").start("secret", "a", 0, "0.0.0"))
    assert said == {"error": f"it has disaggc {disaggc.__version__}, and the driver 0.0.0"}


# messages ----------------------------------------------------------------------------------------


def ends() -> tuple[Sockets, Sockets]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    a, b = (Sockets(lambda _group, _step: True, lambda: None) for _ in range(2))
    a.attach(B, ours)
    b.attach(A, theirs)
    return a, b


def received(sockets: Sockets, count: int) -> list[Message]:
    found: list[Message] = []
    while len(found) < count:
        assert sockets.look(10.0), "nothing comes"
        found.extend(message for _, message in sockets.poll())
    return found


@pytest.mark.parametrize("size", [0, 1, 7, 40_000, 131_030, 131_072, 131_100, 3_000_001])
def test_messages_of_any_size_arrive_as_they_were(size: int) -> None:
    a, b = ends()
    array = np.arange(size, dtype=np.uint8)
    sent = Message(Kind.VALUES, 3, 4, 5, (wrap(array), wrap(np.array([[1.5]], np.float32)), wrap(array)))
    thread = threading.Thread(target=a.send, args=(B, sent))
    thread.start()
    found = received(b, 1)
    thread.join(10)
    a.send(B, Message(Kind.DONE, 1, 0, 0, ()))
    assert received(b, 1)[0].kind is Kind.DONE, "nothing of the first is left over"
    for message in found:
        assert (message.kind, message.group, message.step, message.index) == (Kind.VALUES, 3, 4, 5)
        for ours, theirs in zip(sent.tensors, message.tensors, strict=True):
            np.testing.assert_array_equal(view(ours), view(theirs))


def test_two_that_send_more_than_fits_to_each_other_do_not_wait_for_ever() -> None:
    a, b = ends()
    big = wrap(np.ones(20_000_000, np.uint8))
    found: dict[str, list[Message]] = {}

    def side(own: Sockets, other: Address, name: str) -> None:
        own.send(other, Message(Kind.VALUES, 1, 0, 0, (big,)))
        found[name] = received(own, 1)

    threads = [threading.Thread(target=side, args=args) for args in ((a, B, "a"), (b, A, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(view(found[name][0].tensors[0]).sum() == 20_000_000 for name in "ab")


def test_what_is_sent_to_somebody_who_is_gone_is_dropped() -> None:
    a, b = ends()
    b.detach()
    for _ in range(3):
        a.send(B, Message(Kind.VALUES, 1, 0, 0, (wrap(np.ones(100_000, np.uint8)),)))
    assert list(a.poll()) == []
