"""A deployment that takes requests while it runs: a scheduler on a thread of its own.

Requests come from any thread (``submit``) and may be withdrawn (``withdraw``). What becomes of one is
told to its sender by a callback on the scheduler's thread, which must be quick.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

from disaggc.errors import DisaggcError, ExecutorError
from disaggc.runtime.driver import Deployment
from disaggc.runtime.inbox import Inbox
from disaggc.runtime.requests import Live, Request

QUANTUM_S = 0.01
"""Far below what a reader notices, far above what a word between driver and executors takes."""


@dataclass(frozen=True, slots=True)
class News:
    """What became of a request since it was last told of.

    Attributes:
        tokens: New token ids.
        is_over: Whether nothing more will come.
        error: Why it ended before its time.
    """

    tokens: tuple[int, ...]
    is_over: bool
    error: DisaggcError | None


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that was submitted, as its sender knows it.

    Attributes:
        live: The request.
        hear: Told of news.
        submitted_s: When it came, on ``perf_counter``.
        told: Tokens that were told of.
    """

    live: Live
    hear: Callable[[News], None]
    submitted_s: float = field(default_factory=perf_counter)
    told: int = 0

    @property
    def queued_s(self) -> float:
        """How long it waited to begin; 0 if it has not begun."""
        return max(self.live.admitted_s - self.submitted_s, 0.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What a tier has in a service.

    Attributes:
        waiting: Requests that have not begun.
        running: Requests that have.
        kv_reserved: Tokens that the caches of the running ones may come to hold.
        kv_used: Tokens that they hold.
    """

    waiting: int = 0
    running: int = 0
    kv_reserved: int = 0
    kv_used: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(
            self.waiting + other.waiting,
            self.running + other.running,
            self.kv_reserved + other.kv_reserved,
            self.kv_used + other.kv_used,
        )


class Service:
    """A deployment and the thread that schedules it."""

    def __init__(
        self,
        name: str,
        deployment: Deployment,
        weights: Mapping[str, float] | None = None,
        quantum_s: float = QUANTUM_S,
    ) -> None:
        """Take over a deployment and begin.

        Args:
            name: The deployment's, for messages.
            deployment: Open; it is closed with this.
            weights: Tier to its share of the executors while several wait; 1 where nothing is said.
            quantum_s: About how long executors may work without a word, at least one step.

        Raises:
            DisaggcError: The executors cannot do their work at all.
        """
        self.name = name
        self.error: DisaggcError | None = None
        self._deployment = deployment
        self._scheduler = deployment.scheduler(weights or {}, quantum_s)
        self._inbox = Inbox()
        self._tickets: dict[Live, Ticket] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._work, name=f"disaggc {name}", daemon=True)
        self._thread.start()

    @property
    def kv_tokens(self) -> int | None:
        """Tokens that all caches together may hold; None for no limit."""
        return self._deployment.kv_tokens

    @property
    def restarts(self) -> int:
        """Executors that were lost and replaced."""
        return self._scheduler.restarts

    def submit(self, request: Request, hear: Callable[[News], None]) -> Ticket:
        """Let a request wait for its turn.

        Raises:
            JobError: It cannot be run.
            ExecutorError: The executors are given up.
        """
        number = next(self._numbers)
        refused = self._deployment.refusal(number, request)
        if refused is not None:
            raise refused
        ticket = Ticket(Live(number, request, listener=self._heard), hear)
        with self._lock:
            if self.error is not None:
                raise self.error
            self._tickets[ticket.live] = ticket
        self._inbox.put(ticket.live)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Nobody wants the answer any more: what it holds is freed; it hears that it is over."""
        self._inbox.withdraw(ticket.live)

    def load(self) -> dict[str, Load]:
        """What each tier has here."""
        with self._lock:
            lives = list(self._tickets)
        found: dict[str, Load] = {}
        for live in lives:
            tier = live.request.tier
            more = Load(0, 1, live.request.context, live.cached + 1) if live.is_running else Load(1)
            found[tier] = found.get(tier, Load()) + more
        return found

    def close(self, patience_s: float = 0.0) -> None:
        """Let those that run come to their ends for so long; then end them, and the executors."""
        self._inbox.close()
        self._thread.join(patience_s)
        with self._lock:
            left = list(self._tickets.values())
        for ticket in left:
            self.withdraw(ticket)
        self._thread.join(max(patience_s, 1.0))
        self._deployment.close()
        self._thread.join(1.0)

    def _work(self) -> None:
        end: DisaggcError = ExecutorError(f"Deployment '{self.name}' is closed.")
        try:
            self._scheduler.serve(self._inbox)
        except DisaggcError as error:
            end = error
        finally:
            with self._lock:
                self.error = end
                left = list(self._tickets)
            for live in left:
                live.fail(end)

    def _heard(self, live: Live) -> None:
        """Tell a request's sender what is new."""
        with self._lock:
            ticket = self._tickets.get(live)
            if live.is_done:
                self._tickets.pop(live, None)
        if ticket is None:
            return
        tokens = tuple(live.tokens[ticket.told :])
        ticket.told += len(tokens)
        ticket.hear(News(tokens, live.is_done, live.error))
