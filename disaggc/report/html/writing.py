"""Writes a page whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from disaggc.errors import OutputError


def write_page(text: str, path: Path) -> None:
    """Write a page whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as draft:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
    except OSError as error:
        raise OutputError(f"Cannot write '{path}': {error.strerror}. Choose another name with -o.") from error


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new file in the folder of ``path`` that is gone afterwards unless it took another name."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        draft.chmod(0o644)
        yield draft
    finally:
        draft.unlink(missing_ok=True)
