"""What is answered when a request cannot be: OpenAI's error bodies, with their status codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from disaggc.errors import DisaggcError, ExecutorError, JobError


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request is not answered.

    Attributes:
        message: What, where and the cure.
        status: HTTP's status code.
        type: OpenAI's kind of error.
        param: The parameter at fault.
        code: OpenAI's name for this very error.
        retry_after_s: When to try again.
    """

    message: str
    status: int = 400
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's form; what is quoted from a request may have no UTF-8."""
        message = self.message.encode("utf-8", "replace").decode()
        fields = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP says beside it."""
        headers = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return {**headers, "www-authenticate": "Bearer"} if self.status == 401 else headers


class RefusedError(DisaggcError):
    """A request that is not answered, within the server."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def problem_of(error: DisaggcError) -> Problem:
    """What an error means to a client: its own fault, or ours."""
    if isinstance(error, RefusedError):
        return error.problem
    if isinstance(error, JobError):
        return Problem(str(error))
    if isinstance(error, ExecutorError):
        return Problem(str(error), 503, "server_error", code="executor_error")
    return Problem(str(error), 500, "server_error")


def wrong(message: str, param: str | None = None, code: str | None = None) -> RefusedError:
    """The client's own fault."""
    return RefusedError(Problem(message, param=param, code=code))


def too_long(prompt: int, answer: int, most: int) -> RefusedError:
    """More tokens than a request may have."""
    return wrong(
        f"This tier takes at most {most} tokens a request, prompt and answer together; this one has {prompt} "
        f"and asks for {answer} more. Shorten the prompt, or lower max_tokens.",
        code="context_length_exceeded",
    )


def unknown_model(message: str) -> RefusedError:
    """No such model, or no such tier of it."""
    return RefusedError(Problem(message, 404, param="model", code="model_not_found"))


def unauthorised() -> RefusedError:
    """The key is missing or wrong."""
    text = "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'."
    return RefusedError(Problem(text, 401, "authentication_error", code="invalid_api_key"))


def too_large(most: int) -> RefusedError:
    """A body that is not read."""
    return RefusedError(Problem(f"The body has more than {most} bytes. Send less.", 413))


def queue_full(tier: str, size: int) -> RefusedError:
    """A tier has as many waiting requests as it may."""
    return RefusedError(
        Problem(
            f"Tier '{tier}' has as many requests waiting as it may (--queue-size {size}). Try again later.",
            429,
            "rate_limit_error",
            code="queue_full",
            retry_after_s=1,
        )
    )


def draining() -> RefusedError:
    """The server is about to end."""
    text = "The server is shutting down. Try again, at another one."
    return RefusedError(Problem(text, 503, "server_error", code="shutting_down", retry_after_s=5))


def timed_out(seconds: float) -> RefusedError:
    """A request took too long."""
    text = f"The request was not finished within {seconds:g} s (--request-timeout). Ask for fewer tokens."
    return RefusedError(Problem(text, 504, "timeout_error", code="request_timeout"))
