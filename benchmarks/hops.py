"""What a hop costs: a message from one process to another and back, halved, as executors send and receive it.

    python benchmarks/hops.py [--rounds 3000]

Over shared memory as ``--on processes`` does, and over TCP on this machine as ``--on ray`` does. Both
ends sleep until something arrives, or look again and again (spin), which pays only where each has a core.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
from collections.abc import Callable
from time import perf_counter_ns

import numpy as np

from disaggc.runtime.arena import ASLEEP, Layout, attach, create
from disaggc.runtime.bell import Bell, wait_readable
from disaggc.runtime.cluster.sockets import Sockets
from disaggc.runtime.engine import OrtValue
from disaggc.runtime.links import Links
from disaggc.runtime.messages import DRIVER, Address, Kind, Message
from disaggc.runtime.ring import fence
from disaggc.runtime.tensors import wrap

A, B = Address("a", 0), Address("b", 0)
SIZES = (512, 1 << 16)
Receive = Callable[[], None]
End = Callable[[bool], tuple[Address, Links | Sockets, Receive]]
"""One end, once it is known whether it is the child's: whom it sends to, over what, how it waits."""


def shared_memory(spins: bool) -> End:
    """Rings and bells."""
    layout = Layout((A, B))
    memory = attach(create(layout), layout)
    bells = {address: Bell.create() for address in (DRIVER, A, B)}

    def end(is_child: bool) -> tuple[Address, Links | Sockets, Receive]:
        own, other = (B, A) if is_child else (A, B)
        links = Links(own, layout, memory, bells, lambda _group, _step: True, lambda: None)
        signs = layout.signs(memory, own)

        def receive() -> None:
            while True:
                if not spins and not links.has_any():
                    signs[ASLEEP] = 1
                    fence()
                    if not links.has_any():
                        wait_readable((bells[own].reading,), 1.0)
                    signs[ASLEEP] = 0
                    bells[own].silence()
                for _ in links.poll():
                    return
                os.sched_yield()

        return other, links, receive

    return end


def tcp(spins: bool) -> End:
    """Connections over the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()

    def end(is_child: bool) -> tuple[Address, Links | Sockets, Receive]:
        other, connection = (A, theirs) if is_child else (B, ours)
        sockets = Sockets(lambda _group, _step: True, lambda: None)
        sockets.attach(other, connection)

        def receive() -> None:
            while True:
                if not sockets.look(0.0 if spins else 1.0):
                    os.sched_yield()
                for _ in sockets.poll():
                    return

        return other, sockets, receive

    return end


def hops_us(end: End, size: int, rounds: int) -> list[float]:
    """Microseconds of each hop with a tensor of ``size`` bytes, after a first one that says what it is."""
    child = os.fork()
    target, ways, receive = end(child == 0)
    message = Message(Kind.VALUES, 1, 0, 0, (_tensor(ways, size),))
    if child == 0:
        receive()
        ways.send(target, message)
        again = ways.again(target, message)
        for step in range(rounds):
            receive()
            again(step)
        os._exit(0)
    ways.send(target, message)
    receive()
    again, found = ways.again(target, message), []
    for step in range(rounds):
        start = perf_counter_ns()
        again(step)
        receive()
        found.append((perf_counter_ns() - start) / 2e3)
    os.waitpid(child, 0)
    return found


def _tensor(ways: Links | Sockets, size: int) -> OrtValue:
    """Where a stage's output would lie: with those that others see, if they share memory."""
    placed = ways.outbox.tensor(1, (size,), 2) if isinstance(ways, Links) and ways.outbox else None
    return wrap(np.zeros(size, np.uint8)) if placed is None else placed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3000, metavar="N")
    rounds = parser.parse_args().rounds
    print(f"{'way':15} {'waits':7} {'bytes':>7} {'p10 us':>8} {'p50 us':>8} {'p90 us':>8}")
    for name, way in (("shared memory", shared_memory), ("tcp", tcp)):
        for spins in (False, True):
            for size in SIZES:
                hops = statistics.quantiles(hops_us(way(spins), size, rounds), n=10)
                figures = " ".join(f"{hops[i]:8.0f}" for i in (0, 4, 8))
                print(f"{name:15} {'spins' if spins else 'sleeps':7} {size:7} {figures}", flush=True)


if __name__ == "__main__":
    main()
