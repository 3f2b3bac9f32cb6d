"""Load on an OpenAI-compatible server: requests at random times, and how long tokens took, per tier.

    disaggc serve out --port 8000 &
    python benchmarks/serve_load.py http://127.0.0.1:8000/v1 --rate 20 --requests 200
    python benchmarks/serve_load.py http://127.0.0.1:8000/v1 --concurrency 8 --tier premium=1 --tier free=3

Arrivals are Poisson with --rate, or a fixed number of clients ask again and again with --concurrency.
Prompts are random token ids below --vocabulary, the same for the same --seed. TTFT and ITL are what a
client sees, over one new connection a request; tokens that come together share the time since the last
ones. A server that is no disaggc has to take prompts of token ids and 'return_token_ids' (vLLM does).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import h11

_READ = 2**16


@dataclass(frozen=True, slots=True)
class Planned:
    """A request to be sent, and when, in seconds after the beginning."""

    number: int
    at_s: float
    tier: str
    prompt: tuple[int, ...]
    new_tokens: int


@dataclass(slots=True)
class Answer:
    """What came of it.

    Attributes:
        status: HTTP's; 0 if the connection broke.
        error: What the server said was wrong.
        tokens: Ids that came.
        ttft_s: Time to the first of them.
        gaps_s: Time of each further one.
        whole_s: Time to the end.
        finish: Why it ended.
        said_tokens: How many the server says there were.
    """

    planned: Planned
    status: int = 0
    error: str = ""
    tokens: list[int] = field(default_factory=list)
    ttft_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    whole_s: float = 0.0
    finish: str = ""
    said_tokens: int = 0

    @property
    def is_good(self) -> bool:
        """Whether it was answered to its end."""
        return self.status == 200 and not self.error and bool(self.finish)


def main() -> int:
    """Send requests, print the table."""
    options = _options()
    tiers = [(name, float(share or 1)) for name, _, share in (t.partition("=") for t in options.tier)]
    planned = plan(options, tiers or [("", 1.0)])
    begun = perf_counter()
    answers = asyncio.run(send_all(options.url, options.model, options.api_key, planned, options.concurrency))
    seconds = perf_counter() - begun
    print_table(answers, seconds)
    if options.json is not None:
        data = {"seconds": seconds, "answers": [asdict(answer) for answer in answers]}
        options.json.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return 0 if all(answer.is_good or answer.status == 429 for answer in answers) else 1


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("url", help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default=None, help="default: the server's first")
    parser.add_argument("--api-key", default="", metavar="KEY")
    parser.add_argument("--requests", type=int, default=100, metavar="N")
    parser.add_argument("--rate", type=float, default=10.0, metavar="R", help="arrivals a second, Poisson")
    parser.add_argument("--concurrency", type=int, metavar="N", help="so many clients, instead of a rate")
    parser.add_argument("--tier", action="append", default=[], metavar="NAME[=SHARE]", help="repeatable")
    parser.add_argument("--input-tokens", type=int, nargs=2, default=(4, 32), metavar=("LEAST", "MOST"))
    parser.add_argument("--output-tokens", type=int, nargs=2, default=(8, 64), metavar=("LEAST", "MOST"))
    parser.add_argument("--vocabulary", type=int, default=500, metavar="N", help="ids are below this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every answer")
    return parser.parse_args()


def plan(options: argparse.Namespace, tiers: Sequence[tuple[str, float]]) -> list[Planned]:
    """The requests, drawn by the seed."""
    draw = random.Random(options.seed)  # noqa: S311 - a workload, no secret
    names, shares = zip(*tiers, strict=True)
    at_s, found = 0.0, []
    for number in range(options.requests):
        at_s += draw.expovariate(options.rate)
        (tier,) = draw.choices(names, shares)
        length, new_tokens = draw.randint(*options.input_tokens), draw.randint(*options.output_tokens)
        prompt = tuple(draw.randrange(1, options.vocabulary) for _ in range(length))
        found.append(Planned(number, at_s, tier, prompt, new_tokens))
    return found


async def send_all(
    url: str, model: str | None, key: str, planned: Iterable[Planned], concurrency: int | None
) -> list[Answer]:
    """Send every request when it is due, or as soon as a client is free."""
    model = model or await _first_model(url, key)
    gate = asyncio.Semaphore(concurrency) if concurrency else None
    begun = perf_counter()

    async def one(request: Planned) -> Answer:
        if gate is None:
            await asyncio.sleep(max(request.at_s - (perf_counter() - begun), 0.0))
            return await send(url, model, key, request)
        async with gate:
            return await send(url, model, key, request)

    return await asyncio.gather(*(one(request) for request in planned))


async def send(url: str, model: str, key: str, planned: Planned) -> Answer:
    """Send one request and read its stream."""
    body = {
        "model": model,
        "prompt": list(planned.prompt),
        "max_tokens": planned.new_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "ignore_eos": True,
        "temperature": 0,
        **({"service_tier": planned.tier} if planned.tier else {}),
    }
    answer, begun = Answer(planned), perf_counter()
    last = begun
    with suppress(OSError, h11.RemoteProtocolError, asyncio.IncompleteReadError):
        async for status, event in _events(url, "/completions", key, body):
            now = perf_counter()
            answer.status = status
            count = _take(answer, event)
            if count and not answer.ttft_s:
                answer.ttft_s, last = now - begun, now
            elif count:
                answer.gaps_s += [(now - last) / count] * count
                last = now
    answer.whole_s = perf_counter() - begun
    return answer


def _take(answer: Answer, event: dict[str, Any]) -> int:
    """Note what an event says; how many tokens came with it."""
    if "error" in event:
        answer.error = event["error"]["message"]
    if event.get("usage"):
        answer.said_tokens = event["usage"]["completion_tokens"]
    for choice in event.get("choices", ()):
        answer.finish = choice["finish_reason"] or answer.finish
        answer.tokens += choice.get("token_ids") or ()
        return len(choice.get("token_ids") or ())
    return 0


async def _first_model(url: str, key: str) -> str:
    async for _, found in _events(url, "/models", key, None):
        name: str = found["data"][0]["id"]
        return name
    raise SystemExit(f"{url}/models names no model")


# HTTP ---------------------------------------------------------------------------------------------


async def _events(
    url: str, path: str, key: str, body: dict[str, Any] | None
) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """The events of a stream, or the one document of any other answer, with the status."""
    status, held = 0, b""
    async for part in _exchange(url, path, key, body):
        if isinstance(part, h11.Response):
            status = part.status_code
            is_stream = b"text/event-stream" in dict(part.headers).get(b"content-type", b"")
            continue
        held += part
        while is_stream and b"\n\n" in held:
            event, _, held = held.partition(b"\n\n")
            data = event.removeprefix(b"data: ")
            if data != b"[DONE]":
                yield status, json.loads(data)
    if held:
        yield status, json.loads(held)


async def _exchange(
    url: str, path: str, key: str, body: dict[str, Any] | None
) -> AsyncIterator[h11.Response | bytes]:
    """One request over one connection: its response, then the bytes of its body."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    connection = h11.Connection(h11.CLIENT)
    data = b"" if body is None else json.dumps(body).encode()
    headers = [("Host", parts.netloc), ("Content-Type", "application/json"), ("Connection", "close")]
    headers += [("Content-Length", str(len(data)))] + ([("Authorization", f"Bearer {key}")] if key else [])
    request = h11.Request(method="GET" if body is None else "POST", target=parts.path + path, headers=headers)
    try:
        for event in (request, h11.Data(data), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        await writer.drain()
        while True:
            found = connection.next_event()
            if found is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ))
            elif isinstance(found, h11.Response):
                yield found
            elif isinstance(found, h11.Data):
                yield bytes(found.data)
            else:
                return
    finally:
        writer.close()


# table --------------------------------------------------------------------------------------------


def print_table(answers: Sequence[Answer], seconds: float) -> None:
    """A line for each tier, then for all."""
    print(
        f"{'tier':24} {'sent':>5} {'good':>5} {'429':>4} {'bad':>4} {'TTFT p50':>9} {'p90':>7} {'p99':>7} "
        f"{'ITL p50':>8} {'p90':>6} {'p99':>6} {'e2e p50':>8} {'tok/s':>7}   (ms)"
    )
    tiers = sorted({answer.planned.tier for answer in answers})
    for tier in tiers if len(tiers) > 1 else ():
        _print_row(tier, [answer for answer in answers if answer.planned.tier == tier], seconds)
    _print_row("all", answers, seconds)


def _print_row(name: str, answers: Sequence[Answer], seconds: float) -> None:
    good = [answer for answer in answers if answer.is_good]
    full = sum(answer.status == 429 for answer in answers)
    ttft = [answer.ttft_s * 1e3 for answer in good]
    gaps = [gap * 1e3 for answer in good for gap in answer.gaps_s]
    whole = [answer.whole_s * 1e3 for answer in good]
    tokens = sum(len(answer.tokens) for answer in answers)
    print(
        f"{name:24} {len(answers):>5} {len(good):>5} {full:>4} {len(answers) - len(good) - full:>4} "
        f"{_at(ttft, 50):>9.1f} {_at(ttft, 90):>7.1f} {_at(ttft, 99):>7.1f} "
        f"{_at(gaps, 50):>8.2f} {_at(gaps, 90):>6.2f} {_at(gaps, 99):>6.2f} "
        f"{_at(whole, 50):>8.1f} {tokens / seconds:>7.0f}"
    )


def _at(values: Sequence[float], percent: int) -> float:
    """A percentile; 0 of nothing."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    sys.exit(main())
