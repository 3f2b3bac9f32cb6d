"""Queues, clients that go away, ends: what a server does when not everything goes well."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from disaggc.runtime import Execution
from disaggc.serving import Choices, Rules

from .conftest import Expected
from .house import Running, refused, running, wait_for

LONG = {"prompt": [5, 6, 7], "max_tokens": 50_000, "ignore_eos": True, "stream": True}
"""Far longer than any test waits."""
ONE = Choices(execution=Execution(micro_batch=1), queue_size=1)


def begin(house: Running, body: dict[str, Any]) -> socket.socket:
    """Send a request by hand, so that it can be dropped."""
    host, port = house.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(head.encode() + data)
    return connection


def loads(house: Running) -> tuple[float, float]:
    """Requests that run and requests that wait."""
    return house.metric("num_requests_running"), house.metric("num_requests_waiting")


def test_a_full_queue_says_when_to_come_again_and_a_free_place_is_taken(plan_folder: Path) -> None:
    with running(plan_folder, ONE) as house:
        first = begin(house, LONG)
        wait_for(lambda: loads(house) == (1, 0))
        second = begin(house, LONG)
        wait_for(lambda: loads(house) == (1, 1))
        status, body, headers = house.post("/v1/completions", b'{"prompt": [5]}')
        assert (status, headers["retry-after"]) == (429, "1")
        assert body["error"]["code"] == "queue_full"  # type: ignore[index]
        first.close()
        wait_for(lambda: loads(house) == (1, 0))
        second.close()
        wait_for(lambda: loads(house) == (0, 0))
        status, _, _ = house.post("/v1/completions", b'{"prompt": [5]}')
        assert status == 200
        assert house.metric("requests_total", outcome="rejected") == 1
        assert house.metric("requests_total", outcome="abort") == 2
        assert house.metric("requests_total") == 4


@pytest.mark.parametrize("stream", [True, False])
def test_caches_of_a_client_that_went_away_are_freed(house: Running, stream: bool) -> None:
    gone = house.metric("requests_total", outcome="abort")
    connection = begin(house, {**LONG, "stream": stream})
    wait_for(lambda: house.metric("kv_cache_tokens_used") > 10)
    assert house.metric("kv_cache_tokens_reserved") == 50_003
    assert house.metric("kv_cache_usage_perc") == 50_003 / 400_000
    connection.close()
    wait_for(lambda: house.metric("kv_cache_tokens_reserved") == 0)
    assert house.metric("requests_total", outcome="abort") == gone + 1


def test_a_request_that_takes_too_long_ends_with_an_error(plan_folder: Path) -> None:
    with running(plan_folder, ONE, Rules(timeout_s=0.3)) as house:
        status, body, _ = house.post("/v1/completions", json.dumps({**LONG, "stream": False}).encode())
        assert status == 504
        assert "was not finished within 0.3 s" in body["error"]["message"]  # type: ignore[index]
        with begin(house, LONG) as connection:
            told = read_until(connection, b"request_timeout")
        assert told.startswith(b"HTTP/1.1 504") or b'"token_ids":' in told
        wait_for(lambda: loads(house) == (0, 0))
        assert house.metric("requests_total", outcome="timeout") == 2


def test_a_server_that_ends_lets_answers_end_and_takes_no_more(plan_folder: Path, expected: Expected) -> None:
    (whole,) = expected([5, 6, 7], new_tokens=400)
    with running(plan_folder, ONE) as house:
        client = house.client()
        stream = client.completions.create(
            model=house.api.lineup.model,
            prompt=[5, 6, 7],
            max_tokens=400,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        found = list(next(iter(stream)).choices[0].token_ids)  # type: ignore[attr-defined]
        house.server.end()
        wait_for(lambda: house.api.is_draining)
        for chunk in stream:
            found += chunk.choices[0].token_ids  # type: ignore[attr-defined]
        assert found == whole


def test_answers_that_do_not_end_in_time_end_with_an_error(plan_folder: Path) -> None:
    with running(plan_folder, ONE, drain_s=1e6) as house, begin(house, LONG) as connection:
        read_until(connection, b"token_ids")
        house.server.end()
        wait_for(lambda: house.get("/ready")[0] == 503)
        assert house.get("/health")[0] == 200
        with refused(503, "shutting_down", "The server is shutting down"):
            house.client().completions.create(model="x", prompt=[5])
        house.server._drain_s = 0.0
        read_until(connection, b"shutting_down")


def test_executors_that_are_given_up_make_the_server_unhealthy(
    plan_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(plan_folder, ONE) as house:
        (service,) = house.api.lineup.services

        def fail(*_: object) -> None:
            raise service_error

        from disaggc.errors import ExecutorError

        service_error = ExecutorError("Executors were lost 9 times in a row.")
        monkeypatch.setattr(service._scheduler, "_round", fail)
        for _ in range(2):
            with refused(503, "executor_error", "Executors were lost 9 times in a row."):
                house.client().completions.create(model=house.api.lineup.model, prompt=[5])
        assert house.get("/health")[0] == house.get("/ready")[0] == 503
        assert "lost 9 times" in house.get("/health")[1]


def test_a_request_that_waits_is_not_kept_waiting_by_a_long_one(plan_folder: Path) -> None:
    choices = Choices(execution=Execution(micro_batch=2))
    with running(plan_folder, choices) as house, begin(house, LONG):
        wait_for(lambda: loads(house) == (1, 0))
        answers = []

        def ask() -> None:
            answers.append(house.post("/v1/completions", b'{"prompt": [9, 9], "max_tokens": 3}')[0])

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 3
        assert loads(house) == (1, 0)


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    """What comes up to something that is wanted."""
    told = b""
    while wanted not in told:
        more = connection.recv(2**16)
        assert more, f"it ended without {wanted!r}: {told[-300:]!r}"
        told += more
    return told
