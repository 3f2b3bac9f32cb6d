"""Where figures come from: the declared list of source tags."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from disaggc.errors import DeclarationError
from disaggc.library import read_toml, shelf
from disaggc.records import structure
from disaggc.targets.walk import figures

_FILE = "sources.toml"


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of ``targets/sources.toml``.

    Attributes:
        title: Author and title.
        url: Where it was read; empty if no address was kept.
        date: When it was published, or read.
    """

    title: str
    url: str
    date: str


def read_sources(library: Path | None) -> dict[str, Source]:
    """Tag to source; a library's own tags stand beside the shipped ones and hide equal ones.

    Raises:
        DeclarationError: A file is not TOML, or an entry does not check.
    """
    files = [(f"targets/{_FILE}", shelf("targets") / _FILE)]
    own = library / "targets" / _FILE if library is not None else None
    if own is not None and own.is_file():
        files.append((str(own), own))
    return {tag: source for where, path in files for tag, source in _entries(where, path)}


def check_sources(record: object, where: str, sources: Mapping[str, Source]) -> None:
    """Refuses a record that cites a tag which is not declared.

    Raises:
        DeclarationError: A figure's source is unknown; the message gives the nearest tag.
    """
    for path, figure in figures(record):
        if figure.source not in sources:
            raise DeclarationError(
                f"{where}, at {path}.source: No source tagged '{figure.source}' in targets/{_FILE}."
                f"{_nearest_tag(figure.source, sources)}"
            )


def _entries(where: str, path: Path) -> list[tuple[str, Source]]:
    return [
        (tag, structure(entry, Source, f"{where}, [{tag}]", DeclarationError))
        for tag, entry in read_toml(path).items()
    ]


def _nearest_tag(tag: str, known: Iterable[str]) -> str:
    # Tags are upper case by custom, which errors.nearest does not look for.
    spelled = {name.lower(): name for name in known}
    close = difflib.get_close_matches(tag.lower(), spelled, n=1)
    return f" Did you mean '{spelled[close[0]]}'?" if close else " Add it there, or use 'inferred'."
