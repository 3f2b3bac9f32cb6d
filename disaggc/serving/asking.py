"""From a body to what executors are asked for: prompts as token ids, where to stop, how many tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from disaggc.runtime import Text
from disaggc.serving.bodies import Body, ChatBody, CompletionBody, JsonObject
from disaggc.serving.chat_template import ChatTemplate
from disaggc.serving.problems import too_long, wrong

COMPLETION_TOKENS = 16
"""What OpenAI generates where /v1/completions is not told how many."""
MOST_PROMPTS = 128
MOST_STOPS = 16
_LARGEST_ID = 2**31


@dataclass(frozen=True, slots=True)
class Language:
    """How a model's text becomes tokens; all but ``stop_ids`` may be missing.

    Attributes:
        text: Its tokenizer.
        chat: Its chat template.
        stop_ids: Tokens that end an answer.
    """

    text: Text | None
    chat: ChatTemplate | None
    stop_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for.

    Attributes:
        prompts: Token ids of each.
        is_chat: Whether it is a chat.
        max_tokens: New tokens; None where nothing was said.
        stops: Texts that end an answer.
        stop_ids: Tokens that do.
        stream: Whether to answer piece by piece.
        with_usage: Whether a stream says at its end how many tokens there were.
        with_ids: Whether answers hold token ids, too.
    """

    prompts: tuple[tuple[int, ...], ...]
    is_chat: bool
    max_tokens: int | None
    stops: tuple[str, ...]
    stop_ids: frozenset[int]
    stream: bool
    with_usage: bool
    with_ids: bool


def asked_of(body: Body, language: Language) -> Asked:
    """What a body asks for.

    Raises:
        RefusedError: It cannot be answered.
        JobError: A prompt cannot be made into tokens.
    """
    ends = frozenset() if body.ignore_eos else language.stop_ids
    options = body.stream_options
    if options is not None and not body.stream:
        raise wrong(
            "'stream_options' is for answers that are streamed. Set stream to true.", "stream_options"
        )
    return Asked(
        prompts=_prompts(body, language),
        is_chat=isinstance(body, ChatBody),
        max_tokens=_max_tokens(body),
        stops=_stops(body.stop, language),
        stop_ids=ends | set(_ids(body.stop_token_ids or [], "stop_token_ids")),
        stream=bool(body.stream),
        with_usage=bool(options and options.include_usage),
        with_ids=bool(body.return_token_ids) or language.text is None,
    )


def new_tokens(asked: Asked, prompt: Iterable[int], context: int, default: int) -> int:
    """How many tokens an answer may have.

    Args:
        asked: The request.
        prompt: One of its prompts.
        context: Tokens that prompt and answer may have together.
        default: Where nothing was said.

    Raises:
        RefusedError: There is no room for them.
    """
    length = len(tuple(prompt))
    if asked.max_tokens is None:
        count = min(default if asked.is_chat else COMPLETION_TOKENS, context - length)
    else:
        count = asked.max_tokens
    if count < 1 or length + count > context:
        raise too_long(length, max(count, 1), context)
    return count


def _max_tokens(body: Body) -> int | None:
    newer = body.max_completion_tokens if isinstance(body, ChatBody) else None
    count = newer if newer is not None else body.max_tokens
    if count is not None and count < 1:
        raise wrong(f"Cannot generate {count} tokens. Ask for 1 or more.", "max_tokens")
    return count


# prompts ------------------------------------------------------------------------------------------


def _prompts(body: Body, language: Language) -> tuple[tuple[int, ...], ...]:
    if isinstance(body, ChatBody):
        return (_chat(body.messages, language),)
    assert isinstance(body, CompletionBody)
    found = tuple(_one(prompt, language) for prompt in _several(body.prompt))
    if not found or not all(found):
        raise wrong("There is no prompt, or an empty one. Give at least one token.", "prompt")
    return found


def _several(prompt: Any) -> list[Any]:
    """OpenAI takes a text, token ids, or a list of either."""
    if prompt is None:
        raise wrong("The body lacks 'prompt'. Give a text, or a list of token ids.", "prompt")
    several = prompt if isinstance(prompt, list) and not _is_ids(prompt) else [prompt]
    if len(several) > MOST_PROMPTS:
        raise wrong(f"{len(several)} prompts are too many. Send at most {MOST_PROMPTS} at a time.", "prompt")
    return several


def _is_ids(prompt: list[Any]) -> bool:
    return bool(prompt) and not any(isinstance(part, str | list) for part in prompt)


def _one(prompt: Any, language: Language) -> tuple[int, ...]:
    if isinstance(prompt, list):
        return tuple(_ids(prompt, "prompt"))
    if not isinstance(prompt, str):
        raise wrong(
            f"'prompt' must be text or token ids, or a list of either, not {type(prompt).__name__}.", "prompt"
        )
    if language.text is None:
        raise wrong(
            "There is no tokenizer.json in the model's folder, so prompts must be token ids: "
            '"prompt": [1, 2, 3]. The answer has token_ids.',
            "prompt",
        )
    return tuple(language.text.ids(prompt))


def _ids(values: Any, param: str) -> list[int]:
    if not isinstance(values, list):
        raise wrong(f"'{param}' must be a list of token ids.", param)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST_ID:
            raise wrong(f"Token ids are whole numbers from 0, not {str(value)[:40]!r}.", param)
    return values


def _stops(stop: Any, language: Language) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise wrong("'stop' must be a text or a list of texts, none of them empty.", "stop")
    if len(stops) > MOST_STOPS:
        raise wrong(f"{len(stops)} stops are too many. Give at most {MOST_STOPS}.", "stop")
    if stops and language.text is None:
        raise wrong(
            "There is no tokenizer.json in the model's folder, so an answer has no text to stop at. Give "
            "stop_token_ids instead.",
            "stop",
        )
    return tuple(stops)


# chats --------------------------------------------------------------------------------------------


def _chat(messages: Any, language: Language) -> tuple[int, ...]:
    if language.text is None or language.chat is None:
        lacking = "tokenizer.json" if language.text is None else "chat template"
        raise wrong(
            f"This model cannot chat: there is no {lacking} in its folder. Use /v1/completions, or put one "
            f"there."
        )
    if not isinstance(messages, list) or not messages:
        raise wrong("'messages' must be a list of at least one message.", "messages")
    prompt = language.chat.prompt([_message(m, f"messages.{i}") for i, m in enumerate(messages)])
    return tuple(language.text.ids(prompt, special=False))


def _message(message: Any, where: str) -> JsonObject:
    """A message whose content is a text, which is what templates count on."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise wrong(f"'{where}' must be an object with a role and a content.", where)
    return {**message, "content": _content(message.get("content"), f"{where}.content")}


def _content(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(_part(part, where) for part in content)
    raise wrong(f"'{where}' must be a text, or a list of parts of type 'text'.", where)


def _part(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise wrong(f"'{where}' has a part that is no text. This model takes only text.", where)
    return text
