"""One request and its answers: prompts handed to executors, tokens made into text as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TypeAlias

from disaggc.errors import DisaggcError
from disaggc.runtime import News, Service, Ticket
from disaggc.runtime.requests import Request
from disaggc.serving.answers import Piece, Usage
from disaggc.serving.asking import Asked, Language
from disaggc.serving.detokenizer import Detokenizer, StopStrings
from disaggc.serving.metrics import Metrics
from disaggc.serving.problems import RefusedError, problem_of, timed_out
from disaggc.serving.tiers import Tier

_Event: TypeAlias = "tuple[int, News] | RefusedError"


@dataclass(slots=True)
class _Part:
    """One prompt and its answer.

    Attributes:
        last_s: When its last tokens came, on ``perf_counter``.
        count: Tokens that were told of.
    """

    index: int
    request: Request
    detokenizer: Detokenizer | None
    stops: StopStrings
    last_s: float = 0.0
    service: Service | None = None
    ticket: Ticket | None = None
    count: int = 0
    is_over: bool = False

    def say(self, token: int) -> tuple[str, bool]:
        """The text that a token adds, and whether a stop string ends with it."""
        return self.stops.push(self.detokenizer.push(token)) if self.detokenizer else ("", False)

    def rest(self) -> str:
        """What was held back, now that nothing more comes."""
        if self.detokenizer is None:
            return ""
        said, is_stopped = self.stops.push(self.detokenizer.finish())
        return said if is_stopped else said + self.stops.finish()


@dataclass(eq=False)
class Exchange:
    """A request on its way; to be closed, however it ends.

    Attributes:
        asked: What it asks for.
        limits: New tokens of each prompt.
        tier: What serves it.
        language: The model's.
        metrics: Told of everything.
        timeout_s: How long it may take.
        arrived_s: When it came, on ``perf_counter``.
    """

    asked: Asked
    limits: Sequence[int]
    tier: Tier
    language: Language
    metrics: Metrics
    timeout_s: float
    arrived_s: float
    _events: asyncio.Queue[_Event] = field(default_factory=asyncio.Queue, init=False)
    _parts: list[_Part] = field(default_factory=list, init=False)
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)

    def begin(self) -> None:
        """Hand all prompts over, or none.

        Raises:
            DisaggcError: One of them cannot be run now.
        """
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.timeout_s, self.end_with, timed_out(self.timeout_s))
        for index, (prompt, limit) in enumerate(zip(self.asked.prompts, self.limits, strict=True)):
            request = Request(prompt, limit, stop_ids=self.asked.stop_ids, tier=self.tier.name)
            part = self._part(index, request)
            try:
                part.service, part.ticket = self.tier.submit(request, partial(self._hear, loop, index))
            except DisaggcError:
                self.metrics.ended(self.tier.name, "rejected")
                raise
            self._parts.append(part)

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is answered, as it comes; the last piece of each prompt says why it ends.

        Raises:
            RefusedError: An answer cannot be finished.
        """
        while not all(part.is_over for part in self._parts):
            event = await self._events.get()
            if isinstance(event, RefusedError):
                self._abandon("timeout" if event.problem.status == 504 else "error")
                raise event
            index, news = event
            part = self._parts[index]
            if part.is_over:
                continue
            piece = self._piece(part, news)
            if news.error is not None:
                self._abandon("error")
                raise RefusedError(problem_of(news.error))
            if piece.text or piece.ids or piece.finish:
                yield piece

    def end_with(self, error: RefusedError) -> None:
        """Whoever reads the pieces is told of an error instead of the next."""
        self._events.put_nowait(error)

    def close(self) -> None:
        """Nobody reads any more: what is still on its way is withdrawn."""
        if self._timer is not None:
            self._timer.cancel()
        self._abandon("abort")

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(sum(map(len, self.asked.prompts)), sum(part.count for part in self._parts))

    def _part(self, index: int, request: Request) -> _Part:
        text = self.language.text
        detokenizer = (
            Detokenizer(partial(text.text, special=False), request.prompt) if text is not None else None
        )
        return _Part(index, request, detokenizer, StopStrings(self.asked.stops))

    def _hear(self, loop: asyncio.AbstractEventLoop, index: int, news: News) -> None:
        """On the scheduler's thread: pass news on."""
        _pass_on(loop, partial(self._events.put_nowait, (index, news)))

    def _piece(self, part: _Part, news: News) -> Piece:
        """What new tokens come to, and whether they end the answer."""
        text, used, finish = self._told(part, news)
        self._measure(part, used)
        if finish is not None and news.error is None:
            self._end(part, finish)
        return Piece(part.index, text, news.tokens[:used], finish)

    def _told(self, part: _Part, news: News) -> tuple[str, int, str | None]:
        """The text of new tokens, how many of them count, and why the answer ends with them."""
        text = ""
        for used, token in enumerate(news.tokens, 1):
            if token in part.request.stop_ids:
                return text + part.rest(), used, "stop"
            said, is_stopped = part.say(token)
            text += said
            if is_stopped:
                return text, used, "stop"
        if news.is_over:
            return text + part.rest(), len(news.tokens), "length"
        return text, len(news.tokens), None

    def _measure(self, part: _Part, tokens: int) -> None:
        if not tokens:
            return
        now, tier = perf_counter(), self.tier.name
        if part.count:
            self.metrics.further(tier, tokens, now - part.last_s)
        elif part.ticket is not None:
            prompt = len(part.request.prompt)
            self.metrics.first(tier, prompt, now - self.arrived_s, part.ticket.queued_s)
        self.metrics.generated(tier, tokens)
        part.count += tokens
        part.last_s = now

    def _end(self, part: _Part, outcome: str) -> None:
        """A part is over; if executors do not know, they are told."""
        part.is_over = True
        if part.service is not None and part.ticket is not None and not part.ticket.live.is_done:
            part.service.withdraw(part.ticket)
        seconds = perf_counter() - self.arrived_s
        self.metrics.ended(self.tier.name, outcome, len(part.request.prompt), part.count, seconds)

    def _abandon(self, outcome: str) -> None:
        for part in self._parts:
            if not part.is_over:
                self._end(part, outcome)


def _pass_on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Let a loop of another thread do something; if it has ended, nobody listens any more."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
