"""OpenAI's answers: bodies, and chunks of those that are streamed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from disaggc.serving.bodies import JsonObject


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one answer.

    Attributes:
        index: Which prompt's.
        text: What is new.
        ids: The tokens that came, whether their text is told already or not.
        finish: Why it ended with this piece: 'stop' or 'length'; None if it goes on.
    """

    index: int
    text: str
    ids: tuple[int, ...] = ()
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of all prompts and of all answers."""

    prompt: int
    completion: int

    @property
    def body(self) -> JsonObject:
        """OpenAI's form."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass(frozen=True, slots=True)
class Form:
    """How the answers to one request look.

    Attributes:
        is_chat: Of which endpoint.
        model: As it is called here.
        tier: What served it.
        with_ids: Whether token ids are told.
        with_usage: Whether a stream tells how many tokens there were.
    """

    is_chat: bool
    model: str
    tier: str
    with_ids: bool
    with_usage: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def headers(self) -> dict[str, str]:
        """What clients tell when they report something."""
        return {"x-request-id": self.id}

    def body(self, answers: Sequence[Piece], usage: Usage) -> JsonObject:
        """The whole of it."""
        return {**self._head(), "choices": [self._choice(a) for a in answers], "usage": usage.body}

    def opening(self, count: int) -> list[bytes]:
        """What a stream begins with: who speaks, in a chat."""
        if not self.is_chat:
            return []
        delta = {"role": "assistant", "content": ""}
        return [self._event([self._streamed(index, {"delta": delta})]) for index in range(count)]

    def event(self, piece: Piece) -> bytes:
        """A piece of a stream."""
        said: JsonObject = {"content": piece.text} if piece.text else {}
        form: JsonObject = {"delta": said} if self.is_chat else {"text": piece.text}
        ids: JsonObject = {"token_ids": list(piece.ids)} if self.with_ids else {}
        return self._event([self._streamed(piece.index, {**form, **ids}, piece.finish)])

    def closing(self, usage: Usage) -> list[bytes]:
        """What a stream ends with."""
        last = [self._event([], usage)] if self.with_usage else []
        return [*last, b"data: [DONE]\n\n"]

    def _choice(self, answer: Piece) -> JsonObject:
        form: JsonObject = {"text": answer.text}
        if self.is_chat:
            form = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
        ids = {"token_ids": list(answer.ids)} if self.with_ids else {}
        return self._streamed(answer.index, {**form, **ids}, answer.finish)

    def _streamed(self, index: int, form: JsonObject, finish: str | None = None) -> JsonObject:
        return {"index": index, **form, "logprobs": None, "finish_reason": finish}

    def _event(self, choices: Sequence[JsonObject], usage: Usage | None = None) -> bytes:
        told: JsonObject = {"usage": usage.body if usage else None} if self.with_usage else {}
        return event({**self._head(".chunk"), "choices": choices, **told})

    def _head(self, chunk: str = "") -> JsonObject:
        kind = f"chat.completion{chunk}" if self.is_chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if self.is_chat else 'cmpl'}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": self.tier,
            "system_fingerprint": None,
        }


def event(data: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
