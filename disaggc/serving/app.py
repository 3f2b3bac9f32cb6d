"""The endpoints: OpenAI's /v1/completions, /v1/chat/completions and /v1/models; /health, /ready, /metrics."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from disaggc.errors import DisaggcError
from disaggc.serving.answers import Form, Piece, event
from disaggc.serving.asking import Asked, Language, asked_of, new_tokens
from disaggc.serving.bodies import Body, ChatBody, CompletionBody, JsonObject, read_body
from disaggc.serving.exchange import Exchange
from disaggc.serving.metrics import Metrics
from disaggc.serving.problems import (
    Problem,
    RefusedError,
    draining,
    problem_of,
    too_large,
    unauthorised,
    unknown_model,
)
from disaggc.serving.tiers import Lineup, Tier

T = TypeVar("T")

_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""A proxy in front must not wait for the whole answer."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What requests may do.

    Attributes:
        api_key: What they have to bring; '' for nothing.
        ignore_sampling: Whether requests that ask for sampling are answered greedily.
        max_tokens: New tokens of a chat's answer where nothing is said.
        timeout_s: How long a request may take.
        max_body_bytes: What is read of one.
    """

    api_key: str = ""
    ignore_sampling: bool = False
    max_tokens: int = 1024
    timeout_s: float = 600.0
    max_body_bytes: int = 16 * 2**20


@dataclass(eq=False)
class Api:
    """Answers requests.

    Attributes:
        lineup: Who serves what.
        language: How the model's text becomes tokens.
        rules: What requests may do.
        is_draining: Whether no more requests are taken.
        open: Those that are on their way.
    """

    lineup: Lineup
    language: Language
    rules: Rules
    is_draining: bool = False
    open: set[Exchange] = field(default_factory=set)
    created: int = field(default_factory=lambda: int(time.time()))
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.lineup.model, self.lineup.tiers, self.lineup.states)

    # operators' endpoints ------------------------------------------------------------------------

    async def health(self, _: Request) -> Response:
        """Whether this process is of any use; if not, it is to be started again."""
        trouble = self.lineup.trouble
        return JSONResponse({"status": trouble or "ok"}, 503 if trouble else 200)

    async def ready(self, _: Request) -> Response:
        """Whether requests should be sent here."""
        trouble = "shutting down" if self.is_draining else self.lineup.trouble
        return JSONResponse({"status": trouble or "ready"}, 503 if trouble else 200)

    async def read_metrics(self, _: Request) -> Response:
        """What Prometheus scrapes."""
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    # OpenAI's endpoints --------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        """What there is."""
        self._admit(request)
        return JSONResponse({"object": "list", "data": [self._model(n) for n in self.lineup.model_names]})

    async def model(self, request: Request) -> Response:
        """One of them."""
        self._admit(request)
        name = request.path_params["name"]
        if name not in self.lineup.model_names:
            raise unknown_model(f"No model '{name}' here. GET /v1/models lists them.")
        return JSONResponse(self._model(name))

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._answer(request, CompletionBody)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._answer(request, ChatBody)

    def _model(self, name: str) -> JsonObject:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "disaggc"}

    def _admit(self, request: Request) -> None:
        """Let in who has the key.

        Raises:
            RefusedError: It is wrong.
        """
        given = request.headers.get("authorization", "").encode("latin-1", "replace")
        expected = f"Bearer {self.rules.api_key}".encode()
        if self.rules.api_key and not hmac.compare_digest(given, expected):
            raise unauthorised()

    async def _answer(self, request: Request, kind: type[Body]) -> Response:
        """Answer a request, whole or as a stream."""
        arrived_s = perf_counter()
        self._admit(request)
        if self.is_draining:
            raise draining()
        data = await _read(request, self.rules.max_body_bytes)
        body = read_body(data, kind, self.rules.ignore_sampling)
        tier = self.lineup.tier_of(body.model, body.service_tier)
        asked = await run_in_threadpool(asked_of, body, self.language)
        exchange = self._exchange(asked, tier, arrived_s)
        form = Form(
            asked.is_chat, body.model or self.lineup.model, tier.name, asked.with_ids, asked.with_usage
        )
        return await self._respond(request, exchange, form)

    def _exchange(self, asked: Asked, tier: Tier, arrived_s: float) -> Exchange:
        limits = [new_tokens(asked, p, tier.context, self.rules.max_tokens) for p in asked.prompts]
        return Exchange(asked, limits, tier, self.language, self.metrics, self.rules.timeout_s, arrived_s)

    async def _respond(self, request: Request, exchange: Exchange, form: Form) -> Response:
        """The response to an exchange, which is closed whatever happens."""
        self.open.add(exchange)
        is_handed_on = False
        try:
            exchange.begin()
            pieces = exchange.pieces()
            if not exchange.asked.stream:
                answers = await _while_connected(request, _whole(pieces, len(exchange.limits)))
                return JSONResponse(form.body(answers, exchange.usage), headers=form.headers)
            first = await _while_connected(request, anext(pieces))
            is_handed_on = True
            events = self._events(exchange, form, first, pieces)
            return _Stream(events, form.headers, partial(self._close, exchange))
        finally:
            if not is_handed_on:
                self._close(exchange)

    async def _events(
        self, exchange: Exchange, form: Form, first: Piece, pieces: AsyncIterator[Piece]
    ) -> AsyncIterator[bytes]:
        """Events of a stream; an error that comes late is one of them."""
        try:
            for opening in form.opening(len(exchange.limits)):
                yield opening
            yield form.event(first)
            async for piece in pieces:
                yield form.event(piece)
            for closing in form.closing(exchange.usage):
                yield closing
        except RefusedError as error:
            yield event(error.problem.body)

    def _close(self, exchange: Exchange) -> None:
        exchange.close()
        self.open.discard(exchange)


class _Stream(StreamingResponse):
    """A stream that lets go of what it reads, even if the client is gone before it has begun."""

    def __init__(
        self, events: AsyncIterator[bytes], headers: Mapping[str, str], close: Callable[[], None]
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers={**_STREAM_HEADERS, **headers})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def make_app(api: Api) -> Starlette:
    """The application over an API."""
    routes = [
        Route("/health", api.health),
        Route("/ready", api.ready),
        Route("/metrics", api.read_metrics),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
    ]
    handlers = {DisaggcError: _refuse, HTTPException: _refuse_http, ClientDisconnect: _nobody}
    return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]  # wants Exception


async def _refuse(_: Request, error: DisaggcError) -> Response:
    problem = problem_of(error)
    return JSONResponse(problem.body, problem.status, problem.headers)


async def _refuse_http(request: Request, error: HTTPException) -> Response:
    text = f"{request.method} {request.url.path}: {error.detail}. See docs/serving.md for what is served."
    return JSONResponse(Problem(text).body, error.status_code, error.headers)


async def _nobody(_: Request, __: ClientDisconnect) -> Response:
    """The client is gone; what is answered goes nowhere."""
    return Response(status_code=499)


async def _read(request: Request, most: int) -> bytes:
    """The body of a request.

    Raises:
        RefusedError: It is larger than may be.
    """
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > most:
            raise too_large(most)
    return bytes(found)


async def _whole(pieces: AsyncIterator[Piece], count: int) -> list[Piece]:
    """All answers, put together."""
    texts: list[list[str]] = [[] for _ in range(count)]
    ids: list[list[int]] = [[] for _ in range(count)]
    finishes: list[str | None] = [None] * count
    async for piece in pieces:
        texts[piece.index].append(piece.text)
        ids[piece.index].extend(piece.ids)
        finishes[piece.index] = piece.finish
    return [Piece(i, "".join(texts[i]), tuple(ids[i]), finishes[i]) for i in range(count)]


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """What comes of some work, unless the client goes away first.

    Raises:
        ClientDisconnect: It did.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Ends when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
