"""The JSON bodies of OpenAI's API, as far as they are read here: what each field may be, and what is refused.

Unknown fields are errors that name the nearest one. A field that would change the answer in a way that
executors cannot is refused, never ignored: an answer is what was asked for or an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from disaggc.records import structure
from disaggc.serving.problems import wrong

B = TypeVar("B", bound="Body")

JsonObject = dict[str, Any]

SAMPLING: Mapping[str, tuple[object, ...]] = {
    "temperature": (None, 0, 0.0),
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "repetition_penalty": (None, 1, 1.0),
    "top_p": (None, 1, 1.0),
    "top_k": (None, -1, 0, 1),
    "min_p": (None, 0, 0.0),
}
"""Fields that choose other tokens than the likeliest, and the values that do not."""

_NARROWING = ("top_p", "top_k", "min_p")
"""They narrow down what is drawn from; at temperature 0 nothing is drawn."""

REFUSED: Mapping[str, tuple[object, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "echo": (None, False),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
}
"""Fields that are not served, and the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How to stream.

    Attributes:
        include_usage: Whether to say at the end how many tokens there were.
        include_obfuscation: Ignored: nothing is padded.
    """

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What both endpoints take. ``Any`` marks fields whose form is looked at elsewhere.

    ``stop_token_ids``, ``ignore_eos`` and ``return_token_ids`` are extensions, as in vLLM.
    """

    model: str | None = None
    max_tokens: int | None = None
    stop: Any = None
    stop_token_ids: Any = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    service_tier: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    n: int | None = None
    logprobs: Any = None
    logit_bias: Any = None
    seed: int | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: Any = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatBody(Body):
    """POST /v1/chat/completions. From ``parallel_tool_calls`` on, fields change no answer here."""

    messages: Any = None
    max_completion_tokens: int | None = None
    top_logprobs: int | None = None
    tools: Any = None
    functions: Any = None
    tool_choice: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    parallel_tool_calls: bool | None = None
    metadata: Any = None
    store: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None


class _UnreadableError(Exception):
    """A body that is not of its form."""


def read_body(data: bytes, kind: type[B], ignore_sampling: bool) -> B:
    """The body of a request.

    Args:
        data: JSON.
        kind: Which body.
        ignore_sampling: Take the likeliest token whatever is asked for.

    Raises:
        RefusedError: It is no JSON, not of this form, or asks for what is not served.
    """
    try:
        body = structure(_object(data), kind, "The body", _UnreadableError)
    except _UnreadableError as error:
        at = re.match(r"The body, at ([\w.]+):|The body: Unknown key '(.*?)'", str(error))
        raise wrong(str(error), param=at and (at[1] or at[2])) from error
    _check(body, REFUSED, "is not served here. Leave it out.")
    if not ignore_sampling:
        _check(body, _sampling(body), _GREEDY)
    return body


_GREEDY = (
    "asks for sampling, but answers here are greedy: always the likeliest token. Leave it out or set "
    "temperature to 0; a server started with --ignore-sampling answers greedily whatever is asked for."
)


def _sampling(body: Body) -> Mapping[str, tuple[object, ...]]:
    if body.temperature != 0:
        return SAMPLING
    return {name: values for name, values in SAMPLING.items() if name not in _NARROWING}


def _check(body: Body, allowed: Mapping[str, tuple[object, ...]], why: str) -> None:
    for name, values in allowed.items():
        value = getattr(body, name, None)
        if not any(type(value) is type(other) and value == other for other in values):
            raise wrong(f"'{name}' of {json.dumps(value)[:80]} {why}", param=name)


def _object(data: bytes) -> JsonObject:
    try:
        found = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise wrong(f"The body is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise wrong(f"The body must be a JSON object, not {type(found).__name__}.")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
