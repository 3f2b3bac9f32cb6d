"""Tensors in shared memory: they lie where they are read, and their room is nobody else's meanwhile."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from disaggc.plans import Plan
from disaggc.runtime import Deployment, Execution, deploy, deploy_reference
from disaggc.runtime.actor import Actor
from disaggc.runtime.arena import Layout, attach, create
from disaggc.runtime.bell import Bell
from disaggc.runtime.commands import Failed, Reported
from disaggc.runtime.executor import Executor
from disaggc.runtime.group import Group
from disaggc.runtime.heap import Heap
from disaggc.runtime.links import Links
from disaggc.runtime.messages import DRIVER, Address, Kind, Message
from disaggc.runtime.outbox import Outbox
from disaggc.runtime.ports import ports_of, wirings
from disaggc.runtime.practice import Practice
from disaggc.runtime.routine import Habit
from disaggc.runtime.sessions import StageOpener
from disaggc.runtime.states import Piece
from disaggc.runtime.tensors import Array, view, wrap
from disaggc.runtime.transport import Event, Order, result_of

from .splitting import contiguous, read, split
from .test_processes import TINY

A, B, C = Address("a", 0), Address("b", 0), Address("c", 0)
PROMPTS = [[5, 7, 11, 13, 2], [1, 2, 3], [9, 8, 7, 6, 5], [4, 4]]


def linked(*addresses: Address, heap_bytes: int | None = None) -> dict[Address, Links]:
    layout = Layout(addresses)
    memory = attach(create(layout), layout)
    bells = {address: Bell.create() for address in (DRIVER, *addresses)}
    return {
        own: Links(own, layout, memory, bells, lambda _group, _step: True, lambda: None, heap_bytes)
        for own in addresses
    }


def one(links: Links) -> Message:
    ((_, message),) = links.poll()
    return message


def outbox(links: Links) -> Outbox:
    assert links.outbox is not None
    return links.outbox


# the heap --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["shared", "private"])
def test_room_is_zero_aligned_and_nobody_elses(memory: str) -> None:
    layout = Layout((A,), heap_bytes=1 << 26)
    part = (
        layout.heap(attach(create(layout), layout), A) if memory == "shared" else np.ones(1 << 26, np.uint8)
    )
    heap, draw = Heap(part), random.Random(1)
    held: dict[int, tuple[int, int]] = {}
    for number in range(400):
        if held and draw.random() < 0.5:
            offset = draw.choice(sorted(held))
            size, mark = held.pop(offset)
            assert (part[offset : offset + size] == mark).all()
            heap.give_back(offset)
            continue
        size = draw.choice([1, 63, 64, 65, 5000, 1 << 20, (1 << 20) + 1])
        taken = heap.take(size)
        if taken is None:
            continue
        assert taken % 64 == 0
        assert not part[taken : taken + size].any()
        held[taken] = (size, number % 255 + 1)
        part[taken : taken + size] = number % 255 + 1
    assert held


def test_a_full_heap_gives_nothing_until_some_is_given_back() -> None:
    heap = Heap(np.zeros(1 << 12, np.uint8), limit=1024)
    offsets = [heap.take(256) for _ in range(5)]
    assert offsets[4] is None
    assert None not in offsets[:4]
    assert heap.take(1 << 30) is None
    heap.give_back(256)
    assert heap.take(200) == 256


def test_what_a_heap_held_before_is_forgotten_when_it_is_taken_over() -> None:
    layout = Layout((A,), heap_bytes=1 << 22)
    part = layout.heap(attach(create(layout), layout), A)
    part[:] = 7
    heap = Heap(part)
    assert heap.take(1 << 21) == 0
    assert not part.any()


# messages --------------------------------------------------------------------------------------------


def test_a_tensor_that_lies_in_shared_memory_is_read_there() -> None:
    links = linked(A, B)
    tensor = outbox(links[A]).tensor(1, (2, 3), 1)
    assert tensor is not None
    view(tensor)[...] = 5
    links[A].send(B, Message(Kind.VALUES, 1, 0, 0, (tensor,)))
    (found,) = one(links[B]).tensors
    np.testing.assert_array_equal(view(found), np.full((2, 3), 5, np.float32))
    view(tensor)[...] = 6
    np.testing.assert_array_equal(view(found), np.full((2, 3), 6, np.float32))
    assert outbox(links[B]).is_shared(found)
    assert outbox(links[A]).is_shared(tensor)
    assert not outbox(links[A]).is_shared(wrap(np.ones(3)))


def test_other_tensors_are_copied_there_once_and_keep_their_place() -> None:
    links = linked(A, B)
    found = []
    for step in range(4):
        array = np.full(10, step, np.float32)
        links[A].send(B, Message(Kind.VALUES, 1, step, 0, (wrap(array), wrap(np.zeros((0, 3))))))
        found.append(one(links[B]).tensors)
        np.testing.assert_array_equal(view(found[step][0]), array)
        assert view(found[step][1]).shape == (0, 3)
    assert all(tensors is found[0] for tensors in found)


def test_a_tensor_that_outgrows_its_place_gets_another() -> None:
    links = linked(A, B)
    for step in range(1, 200, 7):
        array = np.arange(step, dtype=np.int64)
        links[A].send(B, Message(Kind.VALUES, 1, step, 0, (wrap(array),)))
        np.testing.assert_array_equal(view(one(links[B]).tensors[0]), array)


def test_what_was_sent_once_is_sent_again_by_its_step_alone() -> None:
    links = linked(A, B)
    tensor = outbox(links[A]).tensor(1, (4,), 1)
    assert tensor is not None
    message = Message(Kind.VALUES, 1, 0, 3, (tensor,))
    links[A].send(B, message)
    first = one(links[B])
    again = links[A].again(B, message)
    for step in range(1, 70_000):  # more than a ring holds, so that records meet its end
        view(tensor)[...] = step
        again(step)
        found = one(links[B])
        assert (found.kind, found.group, found.step, found.index) == (Kind.VALUES, 1, step, 3)
        assert found.tensors is first.tensors
    assert view(found.tensors[0])[0] == step


def test_what_is_copied_each_time_is_sent_again_with_what_it_holds_then() -> None:
    links = linked(A, B)
    array = np.zeros(4, np.float32)
    message = Message(Kind.VALUES, 1, 0, 0, (wrap(array),))
    links[A].send(B, message)
    one(links[B])
    again = links[A].again(B, message)
    array[...] = 9
    again(1)
    np.testing.assert_array_equal(view(one(links[B]).tensors[0]), array)


def test_without_room_tensors_travel_in_the_message() -> None:
    links = linked(A, B, heap_bytes=1024)
    for size in (10, 100_000, 20):
        array = np.arange(size, dtype=np.float32)
        links[A].send(B, Message(Kind.VALUES, size, 0, 0, (wrap(array),)))
        (found,) = one(links[B]).tensors
        np.testing.assert_array_equal(view(found), array)
        assert outbox(links[B]).is_shared(found) == (size < 1024)


# who still reads what --------------------------------------------------------------------------------


def test_room_is_held_until_everybody_is_done_with_it() -> None:
    links = linked(A, B, C)
    for target in (B, C):
        links[A].send(target, Message(Kind.VALUES, 1, 0, 0, (wrap(np.ones(3)),)))
        one(links[target])
    held = outbox(links[A]).groups
    links[A].forget(1)
    assert set(held) == {1}
    links[B].forget(1)
    assert not list(links[A].poll())
    assert set(held) == {1}
    links[C].forget(1)
    assert not list(links[A].poll())
    assert not held


def test_room_is_given_back_though_a_message_arrives_after_its_micro_batch_is_over() -> None:
    links = linked(A, B)
    links[A].send(B, Message(Kind.VALUES, 1, 0, 0, (wrap(np.ones(3)),)))
    links[A].forget(1)
    links[B].forget(1)
    assert not list(links[A].poll())
    assert set(outbox(links[A]).groups) == {1}
    one(links[B])
    links[B].forget(1)  # what an actor does with a message that nobody wants
    assert not list(links[A].poll())
    assert not outbox(links[A]).groups


def test_after_a_loss_nobody_is_told_and_nothing_is_held() -> None:
    links = linked(A, B)
    links[A].send(B, Message(Kind.VALUES, 1, 0, 0, (wrap(np.ones(3)),)))
    one(links[B])
    for own in (A, B):
        links[own].forget_all()
        links[own].forget(1)
    for own in (A, B):
        links[own].clear()
        assert not list(links[own].poll())
        assert not outbox(links[own]).groups
    tensor = outbox(links[A]).tensor(2, (3,), 1)
    assert tensor is not None
    assert not view(tensor).any()


@pytest.mark.parametrize("owner", [A, B])
def test_a_micro_batch_keeps_no_state_of_another_in_shared_memory(tmp_path: Path, owner: Address) -> None:
    """The room goes with the micro-batch that it was held for, whoever's it is."""
    links = linked(A, B)
    plan = split(TINY, tmp_path, contiguous(read(TINY), 3, 0), pools=("a", "b"))
    opener = StageOpener(tmp_path, TINY.parent, 1)
    executors = [Executor(pool, plan, opener, sharing=outbox(links[A])) for pool in ("a", "b")]
    wiring = wirings(plan, [ports for executor in executors for ports in ports_of(executor)])
    for phase, wires in wiring.items():
        executors[0].connect(phase, wires)
    (state, *_) = plan.states
    extents = {"batch": 1, "capacity": 8}
    shape = [dim if isinstance(dim, int) else extents[dim] for dim in state.shape]
    if owner == A:
        held = outbox(links[A]).tensor(1, shape, 1)
    else:
        links[B].send(A, Message(Kind.STATES, 1, 0, 0, (wrap(np.ones(shape, np.float32)),)))
        (held,) = one(links[A]).tensors
    assert held is not None
    view(held)[...] = 3
    executors[0].receive(1, (state.past,), (held,))
    executors[0].form(2, (state.past,), [Piece(1, (0,), (8,))], 8)
    formed = executors[0].value(2, state.past)
    assert not outbox(links[A]).is_shared(formed)
    np.testing.assert_array_equal(view(formed), view(held))


class Poisoned(Heap):
    """Room that is given back holds nonsense at once: whoever still reads it comes to nonsense, too."""

    def give_back(self, offset: int) -> None:
        self.memory[offset : offset + self.room(offset)] = 0xFF
        super().give_back(offset)


class Neighbours:
    """Executors of one process that talk over shared memory; who is next is drawn."""

    is_parallel = True

    def __init__(
        self, plan: Plan, folder: Path, instances: dict[str, int], seed: int, heap_bytes: int | None
    ) -> None:
        self.instances = instances
        self._draw = random.Random(seed)
        addresses = tuple(Address(pool, i) for pool, count in instances.items() for i in range(count))
        layout = Layout(addresses, ring_bytes=1 << 24)  # nobody reads while another sends
        memory = attach(create(layout), layout)
        self._driver = Links(
            DRIVER, layout, memory, bells(addresses), lambda _group, _step: False, lambda: None
        )
        opener = StageOpener(folder, TINY.parent, 1)
        self.events: list[Event] = []
        self.ends = {own: End(own, plan, opener, layout, memory, heap_bytes, self) for own in addresses}
        stages = [ports for end in self.ends.values() for ports in end.actor.ports()]
        self.wirings = wirings(plan, stages)
        for end in self.ends.values():
            end.actor.connect(stages)

    def order(self, address: Address, order: Order) -> None:
        self.ends[address].orders.append(order)

    def wait(self, seconds: float) -> Sequence[Event]:
        assert seconds > 0
        while not self.events:
            end = self._draw.choice([*self.ends.values()])
            if end.orders and self._draw.random() < 0.3:
                end.actor.command(end.orders.pop(0))
            elif self._draw.random() < 0.7:
                end.listen()
            else:
                end.actor.work()
            self.listen()
        events = [*self.events]
        self.events.clear()
        return events

    def listen(self) -> None:
        """What the driver is told; a long result does not fit into a ring at once."""
        self.events.extend(result_of(message) for _, message in self._driver.poll())

    def recover(self) -> int:
        raise AssertionError("nobody is lost here")

    def report(self) -> Sequence[Reported]:
        return [end.actor.report(1) for end in self.ends.values()]

    def close(self) -> None:
        """Nothing to close."""

    def settle(self) -> None:
        """Let all orders and messages arrive."""
        for _ in range(4):
            for end in self.ends.values():
                while end.orders:
                    end.actor.command(end.orders.pop(0))
                end.listen()


class End:
    """One executor, and how its messages leave it."""

    def __init__(
        self,
        own: Address,
        plan: Plan,
        opener: StageOpener,
        layout: Layout,
        memory: Array,
        heap_bytes: int | None,
        home: Neighbours,
    ) -> None:
        self.orders: list[Order] = []
        self.actor: Actor
        self._home = home
        self.links = Links(
            own, layout, memory, bells(layout.addresses), self._is_current, home.listen, heap_bytes
        )
        executor = Executor(own.pool, plan, opener, sharing=outbox(self.links))
        self.actor = Actor(own, plan, executor, self)
        self.forget, self.send, self.again = self.links.forget, self.links.send, self.links.again

    def listen(self) -> None:
        for source, message in self.links.poll():
            self.actor.receive(source, message)

    def tell(self, command: Failed) -> None:
        self._home.events.append(command)

    def _is_current(self, group: int, step: int) -> bool:
        return self.actor.is_current(group, step)


def bells(addresses: Sequence[Address]) -> dict[Address, Bell]:
    return {address: Bell.create() for address in (DRIVER, *addresses)}


@pytest.mark.parametrize("heap_bytes", [None, 20_000, 0])
@pytest.mark.parametrize("prefill_pool", [None, "prefill"])
@pytest.mark.parametrize("seed", range(3))
def test_no_executor_reads_room_that_was_given_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    prefill_pool: str | None,
    heap_bytes: int | None,
) -> None:
    """Whoever reads after it said that it would not finds nonsense; and in the end nothing is held."""
    monkeypatch.setattr("disaggc.runtime.links.Heap", Poisoned)
    draw = random.Random(seed)
    pools = ("attention", "experts", "head")[: draw.choice([2, 3])]
    plan = split(
        TINY,
        tmp_path,
        contiguous(read(TINY), draw.randint(3, 7), seed),
        pools=pools,
        prefill_pool=prefill_pool,
    )
    instances = {pool: draw.randint(1, 2) for pool in (*pools, *([prefill_pool] if prefill_pool else []))}
    with deploy_reference(plan, TINY.parent) as reference:
        expected = reference.generate(PROMPTS, 20).tokens
    neighbours = Neighbours(plan, tmp_path, instances, seed, heap_bytes)
    with Deployment(plan, neighbours, Execution(micro_batch=2, micro_batches=2)) as deployment:
        for _ in range(2):
            assert deployment.generate(PROMPTS, 20).tokens == expected
        neighbours.settle()
    assert not {number for end in neighbours.ends.values() for number in outbox(end.links).groups}


def test_stages_that_became_routine_are_counted_like_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = split(TINY, tmp_path, contiguous(read(TINY), 4, 1))
    repeated = []
    repeat = Practice.repeat

    def counting(self: Practice, group: Group, one: Habit) -> bool:
        repeated.append(one.stage)
        return repeat(self, group, one)

    monkeypatch.setattr(Practice, "repeat", counting)
    results = []
    for transport in (None, Neighbours(plan, tmp_path, {"attention": 1, "experts": 1}, 0, None)):
        opened = (
            deploy(plan, tmp_path, TINY.parent)
            if transport is None
            else Deployment(plan, transport, Execution())
        )
        with opened as deployment:
            results.append(deployment.generate([[5, 7, 11]], 20))
    alone, apart = results
    assert alone.tokens == apart.tokens
    assert len(repeated) > 10 * len(plan.decode.stages)
    assert alone.links == apart.links
    calls = [{(s.phase, s.index): s.calls for s in result.stages} for result in results]
    assert calls[0] == calls[1]
