"""Executors without memory: what the kernel refuses costs the request that asked for it, and no other."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from disaggc.errors import JobError, OutOfMemoryError
from disaggc.plans import dump_plan
from disaggc.runtime import Deployment, Execution, Request, bytes_of, deploy, run
from disaggc.runtime.memory import taken

from .fleets import cut, fleet, on_processes
from .machines import cluster
from .test_processes import TINY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")

ROOM = 64 << 20
"""Beyond what an executor takes when it holds nothing."""
PROMPTS = [(5, 7, 11), (1, 2, 3, 4), (9, 8, 7), (3, 1)]
TOO_LONG = Request((4, 4), 4_000_000)
"""Its caches of a fixed size would take gigabytes, all at once."""
TOO_WIDE = Request(tuple(range(1, 500)) * 12, 2)
"""Its caches are small, but not what attention computes over 6,000 tokens at once."""

Opened = Callable[..., AbstractContextManager[tuple[Deployment, object]]]


@pytest.fixture(scope="module")
def limit(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes that executors of the model may take: what they take by themselves, and some room."""
    folder = tmp_path_factory.mktemp("idle")
    with fleet(cut(TINY, folder), folder, TINY, on_processes()) as (deployment, processes):
        deployment.generate([[1, 2]], 2)
        return ROOM + max(taken(pid) for pid in processes.pids.values())


def expected(folder: Path, prefill_pool: str | None = None) -> list[tuple[int, ...]]:
    plan = cut(TINY, folder, prefill_pool)
    return list(run(plan, folder, TINY.parent, PROMPTS, 40).tokens)


@pytest.mark.parametrize(
    ("opened", "greedy", "what"),
    [
        (fleet, TOO_LONG, "state 'past."),
        (fleet, TOO_WIDE, "a buffer of subgraphs/"),
        (cluster, TOO_LONG, "state 'past."),
    ],
    ids=["processes-long", "processes-wide", "machines-long"],
)
def test_a_request_that_no_memory_is_left_for_fails_alone(
    tmp_path: Path, limit: int, opened: Opened, greedy: Request, what: str
) -> None:
    whole = expected(tmp_path)
    plan = cut(TINY, tmp_path)
    requests = [Request(prompt, 40) for prompt in PROMPTS]
    execution = replace(on_processes(), memory_bytes=limit)
    with opened(plan, tmp_path, TINY, execution) as (deployment, _):
        found = deployment.serve([*requests[:2], greedy, *requests[2:]])
        assert found.tokens == (*whole[:2], (), *whole[2:])
        assert found.restarts == 0
        assert list(found.failures) == [2]
        error = str(found.failures[2])
        assert isinstance(found.failures[2], OutOfMemoryError)
        assert error.startswith(
            f"Request 2 of {len(greedy.prompt):,} tokens, with {greedy.max_new_tokens:,} to come, "
            f"was given up. There is no memory for "
        )
        assert what in error
        assert "--memory-limit" in error
        assert deployment.serve(requests).tokens == tuple(whole), "what it took was given back"


def test_a_request_without_memory_fails_alone_where_prefill_is_apart(tmp_path: Path, limit: int) -> None:
    whole = expected(tmp_path, "prefill")
    plan = cut(TINY, tmp_path, "prefill")
    requests = [Request(prompt, 40) for prompt in PROMPTS]
    with fleet(plan, tmp_path, TINY, replace(on_processes(), memory_bytes=limit)) as (deployment, _):
        found = deployment.serve([TOO_LONG, *requests])
    assert found.tokens == ((), *whole)
    assert isinstance(found.failures[0], OutOfMemoryError)


def test_a_limit_that_leaves_no_room_to_start_is_refused(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    with pytest.raises(JobError, match=r"--memory-limit 1M is too little: an executor takes \d+ MiB before"):
        deploy(plan, tmp_path, TINY.parent, execution=replace(on_processes(), memory_bytes=1 << 20))


def test_the_drivers_own_process_is_not_limited(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    with pytest.raises(JobError, match=r"--memory-limit is for executors with a process each\. Add"):
        deploy(plan, tmp_path, TINY.parent, execution=Execution(memory_bytes=1 << 30))


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("512M", 512 << 20), ("2 GiB", 2 << 30), ("1.5k", 1536)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "much", "0", "-1G", "2X"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"is no size\. Write bytes or a unit, such as 512M or 2G\."):
        bytes_of(text)


LOCAL = """
import resource, sys
from pathlib import Path
from disaggc.plans import parse_plan
from disaggc.runtime import Request, deploy

folder, models = Path(sys.argv[1]), Path(sys.argv[2])
plan = parse_plan((folder / "plan.json").read_bytes(), "plan")
with deploy(plan, folder, models) as deployment:
    resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[3]),) * 2)
    found = deployment.serve([Request((5, 7, 11), 40), Request((4, 4), 4_000_000), Request((1, 2, 3, 4), 40)])
    print(*found.tokens, sep=chr(10))
    print(type(found.failures[1]).__name__)
"""


def test_in_one_process_a_request_without_memory_fails_alone_too(tmp_path: Path) -> None:
    whole = expected(tmp_path)
    (tmp_path / "plan.json").write_bytes(dump_plan(cut(TINY, tmp_path)))
    lines = _output(LOCAL, str(tmp_path), str(TINY.parent), str(1 << 30)).splitlines()
    assert lines == [str(whole[0]), "()", str(whole[1]), "OutOfMemoryError"]


MESSAGES = """
import resource, sys, threading, socket
import numpy as np
from disaggc.runtime.arena import Layout, attach, create
from disaggc.runtime.bell import Bell
from disaggc.runtime.cluster.sockets import Sockets
from disaggc.runtime.links import Links
from disaggc.runtime.memory import NoRoomError, taken
from disaggc.runtime.messages import DRIVER, Address, Kind, Message
from disaggc.runtime.tensors import wrap

A, B = Address("a", 0), Address("b", 0)

def sockets():
    ends = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(ends.getsockname())
    theirs, _ = ends.accept()
    a, b = (Sockets(lambda group, step: False, lambda: None) for _ in range(2))
    a.attach(B, ours)
    b.attach(A, theirs)
    return a, b

def links():
    layout = Layout((A, B))
    memory = attach(create(layout), layout)
    bells = {address: Bell.create() for address in (DRIVER, A, B)}
    return [Links(own, layout, memory, bells, lambda group, step: False, lambda: None, 0) for own in (A, B)]

a, b = {"sockets": sockets, "links": links}[sys.argv[1]]()
big = Message(Kind.STATES, 7, 0, 0, (wrap(np.ones(64 << 20, np.uint8)),))
small = Message(Kind.STATES, 8, 0, 0, (wrap(np.ones(3, np.uint8)),))
limit = taken() + (int(sys.argv[2]) << 20)
threading.stack_size(1 << 20)
def send():
    for message in (small, big, big, small):
        a.send(B, message)
sender = threading.Thread(target=send)
sender.start()
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
seen = []
while len(seen) < 4:
    try:
        for _, message in b.poll():
            seen.append(message.group)
    except NoRoomError as error:
        seen.append(-error.group)
sender.join()
print(*seen)
"""


@pytest.mark.parametrize(
    ("kind", "mib"), [("sockets", 50), ("sockets", 100), ("links", 124)], ids=["bytes", "tensors", "links"]
)
def test_a_message_that_there_is_no_room_for_is_skipped_and_told(kind: str, mib: int) -> None:
    """It takes 64 MiB as bytes and as much as tensors; the sender on a ring without a heap copies it, too."""
    assert _output(MESSAGES, kind, str(mib)).split() == ["8", "-7", "-7", "8"]


def _output(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return done.stdout
