"""Requests: what is asked for, what cannot be run, and how far each has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from disaggc.errors import DisaggcError, JobError
from disaggc.plans import Plan
from disaggc.runtime.tensors import Array


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt.

    Attributes:
        prompt: Token ids.
        max_new_tokens: Tokens to generate.
        arrival_s: When it comes, in seconds after the run has begun.
        stop_ids: Tokens that end the answer; the one that does is its last.
        tier: Whose queue it waits in, where several share the executors.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    arrival_s: float = 0.0
    stop_ids: frozenset[int] = frozenset()
    tier: str = ""

    @property
    def context(self) -> int:
        """Tokens that its caches must hold in the end."""
        return len(self.prompt) + self.max_new_tokens


@dataclass(slots=True, eq=False)
class Live:
    """A request on its way.

    Attributes:
        index: Its position among all.
        tokens: Its new tokens so far.
        logits: Of each of them, where they are kept.
        error: Why it cannot go on.
        alone: Whether it shares micro-batches with nobody, because one that it was in failed.
        exclusive: Whether it runs while nobody else does, so that what it takes is known to be its own.
        strikes: Executors lost while working on it, since ``tokens`` last grew.
        struck_at: Its new tokens at the last of them.
        first_s, last_s: When its first and its last token came, in seconds after the run has begun.
        is_running: Whether it has been admitted, so that caches are reserved for it.
        admitted_s: When it first was, on ``perf_counter``; 0 until then.
        is_withdrawn: Whether nobody wants it any more.
        listener: Told whenever it has new tokens, or has ended.
    """

    index: int
    request: Request
    tokens: list[int] = field(default_factory=list)
    logits: list[Array] = field(default_factory=list)
    error: DisaggcError | None = None
    alone: bool = False
    exclusive: bool = False
    strikes: int = 0
    struck_at: int = -1
    first_s: float = 0.0
    last_s: float = 0.0
    is_running: bool = False
    admitted_s: float = 0.0
    is_withdrawn: bool = False
    listener: Callable[[Live], None] | None = None

    @property
    def prefix(self) -> tuple[int, ...]:
        """Its prompt and its new tokens: what prefill computes, at first or again."""
        return (*self.request.prompt, *self.tokens)

    @property
    def cached(self) -> int:
        """Tokens that its caches hold while it decodes: all but the last."""
        return len(self.request.prompt) + len(self.tokens) - 1

    @property
    def left(self) -> int:
        """Tokens still to generate, at most."""
        if self.tokens and self.tokens[-1] in self.request.stop_ids:
            return 0
        return self.request.max_new_tokens - len(self.tokens)

    @property
    def is_done(self) -> bool:
        """Whether it needs nothing more."""
        return self.is_withdrawn or self.error is not None or self.left <= 0

    def hear(self, tokens: Sequence[int], logits: Sequence[Array]) -> None:
        """Take in new tokens, and their logits if they are kept; what comes after a stop is dropped."""
        stops = (i + 1 for i, token in enumerate(tokens) if token in self.request.stop_ids)
        count = next(stops, len(tokens))
        self.tokens.extend(tokens[:count])
        self.logits.extend(logits[:count])
        self._tell()

    def fail(self, error: DisaggcError) -> None:
        """It cannot go on."""
        self.error = error
        self._tell()

    def withdraw(self) -> None:
        """Nobody wants it any more; it keeps what it has said."""
        self.is_withdrawn = True
        self._tell()

    def strike(self) -> int:
        """Note that an executor was lost while working on it; how often that was at this very token."""
        self.strikes = self.strikes + 1 if self.struck_at == len(self.tokens) else 1
        self.struck_at = len(self.tokens)
        return self.strikes

    def _tell(self) -> None:
        if self.listener is not None:
            self.listener(self)


def check_job(requests: Sequence[Request]) -> None:
    """Refuse what makes no sense as a whole.

    Raises:
        JobError: No prompts, or no new tokens.
    """
    if not requests:
        raise JobError("There is no prompt. Give at least one.")
    for request in requests:
        if request.max_new_tokens < 1:
            raise JobError(f"Cannot generate {request.max_new_tokens} tokens. Ask for 1 or more.")


def refusal(plan: Plan, index: int, request: Request, kv_tokens: int | None) -> JobError | None:
    """Why one request cannot be run, while others can; None if nothing is known against it.

    Args:
        plan: The plan, whose states may have a fixed capacity.
        index: The request's position, for the message.
        request: The request.
        kv_tokens: Tokens that all caches together may hold.
    """
    if not request.prompt:
        return JobError(
            f"Prompt {index} is empty. Give it at least one token, such as the begin-of-text token."
        )
    for token in request.prompt:
        if not 0 <= token < 2**31:
            return JobError(f"Prompt {index} has the token id {token}. Token ids are whole numbers from 0.")
    capacity = min((s.fixed_capacity for s in plan.states if s.fixed_capacity), default=None)
    for limit, holder in ((capacity, "the model's cache"), (kv_tokens, "the plan's budget for caches")):
        if limit is not None and request.context > limit:
            return JobError(
                f"Prompt {index} has {len(request.prompt)} tokens and {request.max_new_tokens} more are to "
                f"come: {request.context}, but {holder} holds {limit}. Shorten the prompt, or ask for fewer "
                f"tokens."
            )
    return None
