"""Token ids to text while they come: no half characters, and nothing said that a stop takes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_PATIENCE = 12
"""Tokens that may all be parts of one character; more are no character at all."""
_LONGEST = 4
"""Bytes of a character, and so tokens that it may be spread over."""
_CONTEXT = 6
"""Tokens of the prompt that decide how the answer begins: with a space or without."""


class Detokenizer:
    """The text of one answer, piece by piece.

    A character's bytes may be spread over tokens, and whether a token's text begins with a space may
    hang on the one before. So a few tokens are always decoded together, and what is new in their text is
    told, unless it ends with half a character.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()) -> None:
        """Begin an answer.

        Args:
            decode: Token ids to text.
            prompt: What the answer goes on with.
        """
        self._decode = decode
        self._window = list(prompt[-_CONTEXT:])
        self._fresh = 0
        self._told = len(_finished(decode(self._window))) if self._window else 0

    def push(self, token: int) -> str:
        """The text that a further token makes certain; often that of the token."""
        self._window.append(token)
        self._fresh += 1
        text = self._decode(self._window)
        finished = _finished(text)
        if finished == text:
            piece = text[self._told :]
            self._shrink(self._fresh)
        elif self._fresh > _PATIENCE:
            piece = finished[self._told :]
            self._shrink(_LONGEST)
        else:
            piece = ""
        return piece

    def finish(self) -> str:
        """The rest: half a character that will not be finished any more."""
        return self._decode(self._window)[self._told :]

    def _shrink(self, kept: int) -> None:
        """Go on with the last few tokens, all told of as far as they make whole characters."""
        self._window = self._window[-kept:]
        self._fresh = 0
        self._told = len(_finished(self._decode(self._window)))


def _finished(text: str) -> str:
    """All but half a character at the end."""
    return text[:-1] if text.endswith(_UNFINISHED) else text


@dataclass(slots=True)
class StopStrings:
    """Ends an answer before the first stop string that comes to its end in it.

    Attributes:
        stops: Not empty ones.
        held: Text that may be the beginning of a stop.
    """

    stops: Sequence[str]
    held: str = field(default="", init=False)

    def push(self, text: str) -> tuple[str, bool]:
        """What can be said after this piece, and whether that is the end."""
        whole = self.held + text
        ends = [(at + len(stop), at) for stop in self.stops if (at := whole.find(stop)) >= 0]
        if ends:
            self.held = ""
            return whole[: min(ends)[1]], True
        keep = max((_overlap(whole, stop) for stop in self.stops), default=0)
        self.held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep], False

    def finish(self) -> str:
        """What was held back for a stop that did not come."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that a stop begins with."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
