"""Bytes between processes: rings, messages on them, commands on sockets."""

import itertools
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest

from disaggc.errors import ExecutorError, PlanError
from disaggc.runtime.arena import Layout, attach, create
from disaggc.runtime.bell import Bell
from disaggc.runtime.channel import Channel, ClosedError
from disaggc.runtime.commands import (
    Close,
    Command,
    Form,
    More,
    Prefill,
    Ran,
    Reported,
    Share,
    read_command,
    write_command,
)
from disaggc.runtime.framing import Packer, Unpacker
from disaggc.runtime.links import Links
from disaggc.runtime.messages import DRIVER, Address, Kind, Message
from disaggc.runtime.ring import CONTROL_BYTES, WRITTEN, Ring
from disaggc.runtime.tensors import Array, as_type, view, wrap

A, B = Address("a", 0), Address("b", 1)


def ring_pair(size: int) -> tuple[Ring, Ring]:
    memory = np.zeros(CONTROL_BYTES + size, np.uint8)
    return Ring(memory), Ring(memory)


def put(ring: Ring, data: bytes) -> bool:
    room = ring.reserve(len(data))
    if room is None:
        return False
    room[:] = data
    ring.publish()
    return True


def take(ring: Ring) -> bytes | None:
    record = ring.peek()
    if record is None:
        return None
    data = bytes(record)
    ring.release()
    return data


@pytest.mark.parametrize("seed", range(20))
def test_a_ring_gives_back_every_record_in_order(seed: int) -> None:
    draw = random.Random(seed)
    writer, reader = ring_pair(1024)
    waiting: deque[bytes] = deque()
    for _ in range(2000):
        if draw.random() < 0.5:
            data = draw.randbytes(draw.randint(0, writer.largest))
            if put(writer, data):
                waiting.append(data)
        else:
            found = take(reader)
            assert found == (waiting.popleft() if waiting else None)
    assert (reader.counters[WRITTEN] != reader.taken) == bool(waiting)


def test_a_full_ring_takes_nothing_until_it_is_read() -> None:
    writer, reader = ring_pair(1024)
    count = 0
    while put(writer, bytes(writer.largest)):
        count += 1
    assert count >= 3
    assert take(reader) == bytes(writer.largest)
    assert put(writer, b"x")


@pytest.mark.parametrize("seed", range(20))
def test_posted_records_come_among_the_others_and_none_is_overwritten(seed: int) -> None:
    draw = random.Random(seed)
    fields = struct.Struct("<QQ")
    writer, reader = ring_pair(256)
    waiting: deque[bytes] = deque()
    refused = 0
    for number in range(2000):
        if draw.random() < 0.6:
            data = fields.pack(number, ~number & 0xFFFF) if draw.random() < 0.7 else draw.randbytes(40)
            written = writer.post(fields, *fields.unpack(data)) if len(data) == 16 else put(writer, data)
            refused += not written
            waiting.extend([data] if written else [])
        else:
            posted = reader.take(fields) if draw.random() < 0.5 else None
            found = take(reader) if posted is None else fields.pack(*posted)
            assert found == (waiting.popleft() if waiting else None)
    assert refused > 100


def test_what_is_not_published_is_not_seen() -> None:
    writer, reader = ring_pair(1024)
    assert writer.reserve(8) is not None
    assert reader.peek() is None
    writer.publish()
    assert reader.peek() is not None


def sent_and_read(message: Message, reuse: bool = False) -> Message:
    packer, unpacker = Packer(), Unpacker(lambda _group, _step: reuse)
    room = memoryview(bytearray(packer.size(message)))
    packer.write(message, room)
    return unpacker.read(room)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "bool", "uint8"])
def test_tensors_arrive_as_they_were(shape: tuple[int, ...], dtype: str) -> None:
    array = np.array(np.random.default_rng(0).integers(0, 2, shape), dtype)
    found = sent_and_read(Message(Kind.VALUES, 7, 3, -2, (wrap(array), wrap(array[None]))))
    assert (found.kind, found.group, found.step, found.index) == (Kind.VALUES, 7, 3, -2)
    for value, expected in zip(found.tensors, (array, array[None]), strict=True):
        assert view(value).dtype == expected.dtype
        np.testing.assert_array_equal(view(value), expected)


def test_bfloat16_arrives_with_its_type() -> None:
    bits = np.array([[16256, 49024]], np.uint16)
    (found,) = sent_and_read(Message(Kind.VALUES, 1, 0, 0, (as_type(bits, 16),))).tensors
    assert found.data_type() == "tensor(bfloat16)"
    np.testing.assert_array_equal(view(found), bits)


def test_tensors_of_one_description_keep_their_place_while_they_may() -> None:
    packer = Packer()
    array = np.arange(4, dtype=np.float32)
    message = Message(Kind.VALUES, 1, 0, 0, (wrap(array),))
    room = memoryview(bytearray(packer.size(message)))
    allowed = [True, True, False, True]
    unpacker = Unpacker(lambda _group, step: allowed[step])
    found = []
    for step in range(4):
        array[...] = step
        packer.write(Message(Kind.VALUES, 1, step, 0, message.tensors), room)
        (value,) = unpacker.read(room).tensors
        assert view(value)[0] == step
        found.append(value)
    assert found[1] is found[0]
    assert found[2] is not found[0]
    assert found[3] is found[0]


@pytest.mark.parametrize("data", [b"", b"x" * 10, struct.pack("<HHIIiIQ", 99, 0, 1, 1, 1, 0, 0)])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(PlanError, match="A message between executors does not read"):
        Unpacker(lambda _group, _step: False).read(memoryview(data))


def ends() -> tuple[Links, Links, Array]:
    layout = Layout((A, B), ring_bytes=4096)
    memory = attach(create(layout), layout)
    bells = {address: Bell.create() for address in (DRIVER, A, B)}
    made = [Links(own, layout, memory, bells, lambda _group, _step: False, lambda: None) for own in (A, B)]
    return made[0], made[1], memory


@pytest.mark.parametrize("size", [0, 1, 100, 240, 250, 260])
def test_messages_arrive_whole_and_in_order(size: int) -> None:
    """A ring of 4,096 bytes takes records of 1,016: 250 numbers and a header are one too many for it."""
    a, b, _ = ends()
    for step in range(20):
        array = np.full(size, step, np.float32)
        a.send(B, Message(Kind.VALUES, 1, step, 0, (wrap(array),)))
        ((source, message),) = b.poll()
        assert (source, message.step) == (A, step)
        np.testing.assert_array_equal(view(message.tensors[0]), array)


def test_two_ends_that_write_more_than_fits_take_in_what_the_other_writes() -> None:
    """Each fills its ring; neither reads before it has written: no deadlock."""
    a, b, _ = ends()
    big = np.arange(100_000, dtype=np.float32)
    found: dict[str, list[Message]] = {"a": [], "b": []}

    def side(own: Links, other: Address, name: str) -> None:
        own.send(other, Message(Kind.VALUES, 1, 0, 0, (wrap(big),)))
        while not found[name]:
            found[name].extend(message for _, message in own.poll())

    threads = [threading.Thread(target=side, args=args) for args in ((a, B, "a"), (b, A, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for messages in found.values():
        np.testing.assert_array_equal(view(messages[0].tensors[0]), big)


def test_messages_stay_in_order_when_more_is_sent_between_two_of_them() -> None:
    """The reader of a message sends more than fits, and so takes in those that come after it."""
    a, b, _ = ends()
    for step in range(3):
        a.send(B, Message(Kind.VALUES, 1, step, 0, (wrap(np.zeros(10, np.float32)),)))
    steps, thread = [], None
    for _, message in b.poll():
        steps.append(message.step)
        if message.step == 0:
            big = Message(Kind.VALUES, 2, 0, 0, (wrap(np.zeros(50_000, np.float32)),))
            thread = threading.Thread(target=lambda: list(itertools.islice(_read(a), 1)))
            thread.start()
            b.send(A, big)
            a.send(B, Message(Kind.VALUES, 1, 3, 0, ()))
    assert thread is not None
    thread.join(60)
    steps.extend(message.step for _, message in b.poll())
    assert steps == [0, 1, 2, 3]


def _read(links: Links) -> Iterator[tuple[Address, Message]]:
    while True:
        yield from links.poll()


COMMANDS = [
    Prefill(1, ((1, 2), (3, 4)), 9, {"a": 0}, {"b": 1}, keep_logits=True),
    Form(2, (Share(1, (0, 1), (2, 2)),), (5, 6), 9, {"a": 0}, 16),
    More(2, 16),
    Close((1, 2)),
    Reported("a", 0, (), (), 1, (Ran("decode", 0, 1, 2, 3, 4),)),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_commands_survive_json(command: object) -> None:
    assert read_command(write_command(command)) == command  # type: ignore[arg-type]


def test_a_command_that_does_not_exist_gets_the_nearest_name() -> None:
    with pytest.raises(ExecutorError, match=r"An executor was told 'Prefil'. Did you mean 'Prefill'\?"):
        read_command({"command": "Prefil"})
    with pytest.raises(ExecutorError, match=r"More: Unknown key 'stepps'. Did you mean 'steps'\?"):
        read_command({"command": "More", "group": 1, "stepps": 2})


def test_commands_arrive_whole_however_they_are_cut() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs)
    long = Prefill(1, (tuple(range(200_000)),), 9, {"a": 0}, {})
    sender.send(long)
    sender.send(More(1, 2))
    assert not sender.is_flushed
    found: list[Command] = []
    while len(found) < 2:
        found.extend(receiver.receive())
        sender.flush()
    assert found == [long, More(1, 2)]
    sender.close()
    with pytest.raises(ClosedError, match="hung up"):
        list(receiver.receive())


def test_a_length_that_no_command_has_is_refused() -> None:
    ours, theirs = socket.socketpair()
    ours.send(struct.pack("<I", 0xFFFFFFFF))
    with pytest.raises(ClosedError, match=r"announces 4,294,967,295 bytes, more than any command has"):
        list(Channel(theirs).receive())
    ours.close()
