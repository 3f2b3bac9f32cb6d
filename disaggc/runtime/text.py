"""Text in, text out: the tokenizer that lies in a model's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from disaggc.errors import JobError, ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"


class Text:
    """A model's tokenizer, from the ``tokenizer.json`` in its folder (Hugging Face's format)."""

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            JobError: The package tokenizers, an extra, is not installed.
            ModelError: The folder has no tokenizer, or it does not read.
        """
        self._tokenizer = _load(folder / FILE)

    def ids(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of a text.

        Args:
            text: Any text.
            special: Whether the tokenizer adds its own special tokens, such as one that begins a text.

        Raises:
            JobError: The text comes to no token, or is no text in Unicode.
        """
        try:
            found: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        except TypeError as error:  # what the package says of a text that has no UTF-8
            raise JobError(
                "The prompt is no text: it has half of a surrogate pair. Send whole characters."
            ) from error
        if not found:
            raise JobError(f"The prompt {text!r} comes to no token. Write some text.")
        return found

    def text(self, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of token ids, special tokens included unless told otherwise."""
        told: str = self._tokenizer.decode(list(ids), skip_special_tokens=not special)
        return told

    def id_of(self, token: str) -> int | None:
        """The id of a token by its exact spelling; None if there is no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found


def _load(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer  # an extra: plans run on token ids without it
    except ImportError as error:
        raise JobError(
            "A prompt of text needs the package tokenizers. Install it: pip install 'disaggc[text]', or give "
            "token ids: --prompt-ids 1,2,3."
        ) from error
    if not path.is_file():
        raise ModelError(
            f"'{path.parent}' has no {path.name} beside the model. Put the model's own there, or give token "
            f"ids: --prompt-ids 1,2,3."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exceptions
        raise ModelError(f"'{path}' is no tokenizer: {error}. Fetch it again.") from error
    tokenizer.no_truncation()  # some come with what suits training
    tokenizer.no_padding()
    return tokenizer
