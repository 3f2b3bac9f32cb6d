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

    def ids(self, text: str) -> list[int]:
        """The token ids of a text.

        Raises:
            JobError: The text comes to no token.
        """
        found: list[int] = self._tokenizer.encode(text).ids
        if not found:
            raise JobError(f"The prompt {text!r} comes to no token. Write some text.")
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        told: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return told


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
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exceptions
        raise ModelError(f"'{path}' is no tokenizer: {error}. Fetch it again.") from error
