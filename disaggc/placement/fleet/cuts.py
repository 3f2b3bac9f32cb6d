"""Where the layers of a decoder may be cut in two for decode: runs of pieces around the feed-forward.

A layer goes round: core attention, output projection, norm, router, experts, norm, QKV, core attention.
The feed-forward side is a run of it that holds the experts and stops short of core attention, so that
two messages a layer cross; which norms, projections, router and shared expert go along is the choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from disaggc.cost import Array
from disaggc.ir import Role
from disaggc.placement.modes import FEED_FORWARD
from disaggc.placement.pieces import Pieces

MORE_MESSAGES = 1.1
"""Cuts that send more messages than this many times the fewest are left out: each costs a link's latency."""


@dataclass(frozen=True)
class Cuts:
    """Every cut of a model.

    Attributes:
        away: (cut, piece): 1 where a piece is on the feed-forward side.
    """

    pieces: Pieces
    away: Array

    def __len__(self) -> int:
        return len(self.away)

    def assignment(self, cut: int, home: int, away: int) -> tuple[int, ...]:
        """The place of each piece under a cut."""
        return tuple(away if on else home for on in self.away[cut])

    def messages(self) -> tuple[Array, Array]:
        """(cut,): messages of a step from attention to feed-forward, and back."""
        counts = np.array([[e.count if e.message else 0] for e in self.pieces.edges], dtype=np.float64)
        there, back = self._crossings()
        return (there @ counts)[:, 0], (back @ counts)[:, 0]

    def payloads(self, edge_bytes: Array) -> tuple[Array, Array]:
        """(cut, batch): bytes of a step that cross, from those of each edge (edge, batch)."""
        there, back = self._crossings()
        return there @ edge_bytes, back @ edge_bytes

    def _crossings(self) -> tuple[Array, Array]:
        """(cut, edge): 1 where an edge leads from attention to feed-forward, and 1 where it leads back."""
        source = np.array([self.away[:, e.source] for e in self.pieces.edges]).T
        forward = np.array([self.away[:, list(e.readers)].max(axis=1) for e in self.pieces.edges]).T
        home = np.array([self.away[:, list(e.readers)].min(axis=1) for e in self.pieces.edges]).T
        return (1 - source) * forward, source * (1 - home)


def cuts_of(pieces: Pieces) -> Cuts:
    """The cuts of a folded model that send about as few messages as any; none without both sides."""
    found = dict.fromkeys(_away(pieces)) if _has_both(pieces) else {}
    cuts = Cuts(pieces, np.array(list(found), dtype=np.float64).reshape(len(found), len(pieces.pieces)))
    if not found:
        return cuts
    there, back = cuts.messages()
    sent = there + back
    return Cuts(pieces, cuts.away[sent <= MORE_MESSAGES * sent.min()])


def _has_both(pieces: Pieces) -> bool:
    roles = {piece.role for piece in pieces.pieces}
    return Role.CORE_ATTENTION in roles and bool(roles & set(FEED_FORWARD))


def _away(pieces: Pieces) -> Iterator[tuple[bool, ...]]:
    before, after = _neighbours(pieces)
    forward = {i for i, p in enumerate(pieces.pieces) if p.role in FEED_FORWARD}
    shared = {i for i, p in enumerate(pieces.pieces) if p.role is Role.SHARED_EXPERT}
    ends = {i for i, p in enumerate(pieces.pieces) if not p.in_layers and p.role is not Role.EMBEDDING}
    for k_before, k_after in itertools.product(range(_longest(before) + 1), range(_longest(after) + 1)):
        run = forward | {i for d, i in before if d <= k_before} | {i for d, i in after if d <= k_after}
        for kept, closing in itertools.product((set(), shared), (set(), ends)):
            yield tuple(i in (run - kept) | closing for i in range(len(pieces.pieces)))


def _longest(distances: set[tuple[int, int]]) -> int:
    return max((d for d, _ in distances), default=0)


def _neighbours(pieces: Pieces) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """(distance, piece) before and after a feed-forward piece, as far as core attention, in every layer."""
    order = [pieces.piece_of[segment] for segment in sorted(pieces.piece_of)]
    before: set[tuple[int, int]] = set()
    after: set[tuple[int, int]] = set()
    for at, piece in enumerate(order):
        if pieces.pieces[piece].role in FEED_FORWARD:
            before |= set(_walk(pieces, order[:at][::-1]))
            after |= set(_walk(pieces, order[at + 1 :]))
    return before, after


def _walk(pieces: Pieces, order: list[int]) -> Iterator[tuple[int, int]]:
    """Layer pieces from one on until core attention, with how far away they are."""
    for distance, piece in enumerate(order, 1):
        one = pieces.pieces[piece]
        if one.role is Role.CORE_ATTENTION or not one.in_layers:
            return
        if one.role not in FEED_FORWARD:
            yield distance, piece
