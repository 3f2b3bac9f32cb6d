"""Finds the three folders of declarations: passes/, targets/ and plans/.

In a wheel they lie in ``disaggc/declared/<kind>``; in a checkout or an editable install beside
the package. A user's own folder (``--library DIR``) stands in front of the shipped one: a file
there hides the shipped file of the same relative path, and adds to the others.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from disaggc.errors import DeclarationError

_PACKAGE = Path(__file__).resolve().parent


def shelf(kind: str) -> Path:
    """The shipped folder of one kind of declaration ('passes', 'targets' or 'plans')."""
    packed = _PACKAGE / "declared" / kind
    return packed if packed.is_dir() else _PACKAGE.parent / kind


def declarations(kind: str, folder: str, library: Path | None = None) -> dict[str, Path]:
    """The TOML files of ``kind/folder`` by stem; those of ``library`` hide shipped ones.

    Args:
        kind: 'passes' or 'targets'.
        folder: The folder below it, such as 'devices'.
        library: A user's folder of declarations, laid out like the shipped one.

    Returns:
        Stem to path, sorted by stem.
    """
    roots = [shelf(kind)] + ([library / kind] if library is not None else [])
    found = {path.stem: path for root in roots for path in sorted((root / folder).glob("*.toml"))}
    return dict(sorted(found.items()))


def read_toml(path: Path) -> dict[str, Any]:
    """One TOML file as parsed.

    Raises:
        DeclarationError: It cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeclarationError(f"Cannot read '{path}': {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeclarationError(f"'{path}' is not TOML: {error}.") from error
