"""What single ops tell about roles, as declared in passes/roles/*.toml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from disaggc.errors import DeclarationError
from disaggc.library import declarations, read_toml
from disaggc.records import structure


@dataclass(frozen=True, slots=True)
class Ops:
    """Op kinds ('MatMul', 'com.microsoft::MoE') by what they do; see passes/roles/default.toml."""

    projection: frozenset[str]
    attention: frozenset[str]
    experts: frozenset[str]
    select: frozenset[str]
    lookup: frozenset[str]
    gate: frozenset[str]
    metadata: frozenset[str]
    movement: frozenset[str]
    skip_norm: frozenset[str]
    in_place: frozenset[str]


@dataclass(frozen=True, slots=True)
class FeedSlot:
    """A graph input that ends in input ``input`` of ``op`` is fed ``kind``."""

    op: str
    input: int
    kind: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One file of passes/roles/."""

    ops: Ops
    feed: tuple[FeedSlot, ...] = ()


def load_vocabulary(library: Path | None = None, name: str = "default") -> Vocabulary:
    """The declared vocabulary; a user's file of the same name replaces the shipped one.

    Raises:
        DeclarationError: The file does not check.
    """
    path = declarations("passes", "roles", library)[name]
    return structure(read_toml(path), Vocabulary, str(path), DeclarationError)
