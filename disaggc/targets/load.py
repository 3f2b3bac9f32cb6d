"""Reads the declared targets and resolves the names by which they refer to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from disaggc.errors import DeclarationError, nearest
from disaggc.library import declarations, read_toml, shelf
from disaggc.records import structure
from disaggc.targets.device import Device
from disaggc.targets.efficiency import Efficiency
from disaggc.targets.library import Library
from disaggc.targets.link import Link
from disaggc.targets.source import Source, check_sources, read_sources
from disaggc.targets.system import System
from disaggc.targets.tier import Tier

T = TypeVar("T")


def load_library(library: Path | None = None) -> Library:
    """Every shipped target, and those of a user's own folder, which hide shipped ones of one name.

    Args:
        library: A folder laid out like the shipped ones (``library/targets/systems/mine.toml``).

    Raises:
        DeclarationError: A file is not TOML, or a field of it does not check.
    """
    reader = _Reader(library, read_sources(library))
    efficiencies = reader.raw("efficiencies")
    devices = reader.resolved("devices", {"efficiency": ("efficiencies", efficiencies)})
    links = reader.raw("links")
    ports = ("links", links)
    parts = {"device": ("devices", devices), "scale_up": ports, "scale_out": ports}
    return Library(
        efficiencies=reader.records(efficiencies, Efficiency),
        devices=reader.records(devices, Device),
        links=reader.records(links, Link),
        systems=reader.records(reader.resolved("systems", parts), System),
        tiers=reader.records(_tables(reader.raw("tiers")), Tier),
        sources=reader.sources,
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One declaration as parsed, and the file to name when it does not check."""

    where: str
    data: dict[str, Any]


_Folder = Mapping[str, _Entry]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the folders of one library; what it hands on are records."""

    library: Path | None
    sources: Mapping[str, Source]

    def raw(self, folder: str) -> dict[str, _Entry]:
        """Each file of a folder as parsed, with the file's stem as its name."""
        found = declarations("targets", folder, self.library)
        return {stem: _entry(_shown(path), stem, read_toml(path)) for stem, path in found.items()}

    def resolved(self, folder: str, parts: Mapping[str, tuple[str, _Folder]]) -> dict[str, _Entry]:
        """The same with the names in some fields replaced by the declarations they name."""
        return {
            stem: _Entry(entry.where, entry.data | _looked_up(entry, parts))
            for stem, entry in self.raw(folder).items()
        }

    def records(self, entries: _Folder, record: type[T]) -> dict[str, T]:
        """Each declaration as a frozen dataclass, its sources checked."""
        return {name: self._record(entry, record) for name, entry in entries.items()}

    def _record(self, entry: _Entry, record: type[T]) -> T:
        result = structure(entry.data, record, entry.where, DeclarationError)
        check_sources(result, entry.where, self.sources)
        return result


def _entry(where: str, name: str, data: object) -> _Entry:
    if not isinstance(data, dict):
        raise DeclarationError(f"{where}: Expected a table, got {data!r}.")
    if "name" in data:
        raise DeclarationError(f"{where}: Unknown key 'name'; it is called '{name}' by where it stands.")
    return _Entry(where, {"name": name, **data})


def _looked_up(entry: _Entry, parts: Mapping[str, tuple[str, _Folder]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, (folder, known) in parts.items():
        name = entry.data.get(field)
        if isinstance(name, str):
            found[field] = _part(entry, field, name, folder, known)
    return found


def _part(entry: _Entry, field: str, name: str, folder: str, known: _Folder) -> dict[str, Any]:
    if name not in known:
        raise DeclarationError(
            f"{entry.where}, at {field}: No target named '{name}' in targets/{folder}.{nearest(name, known)}"
        )
    return known[name].data


def _tables(files: _Folder) -> dict[str, _Entry]:
    """One entry for each table of each file, named 'file/table'."""
    return {
        f"{stem}/{table}": _entry(f"{entry.where}, [{table}]", f"{stem}/{table}", data)
        for stem, entry in files.items()
        for table, data in entry.data.items()
        if table != "name"
    }


def _shown(path: Path) -> str:
    """A shipped file as 'targets/devices/lp30.toml' wherever it is installed; a user's as it is."""
    root = shelf("targets")
    return f"targets/{path.relative_to(root).as_posix()}" if path.is_relative_to(root) else str(path)
