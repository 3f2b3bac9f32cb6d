"""Which stages are pieces of one LM head: neighbours on one pool, which nothing else leaves to be two."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from disaggc.plans.model import Stage

_HEAD = "head"


def head_pieces(stages: Sequence[Stage]) -> Mapping[int, str]:
    """Stages that are pieces of a head, by index, with what people call them: 'piece 3 of 8'.

    Args:
        stages: Of one phase, in order of execution.
    """
    found: dict[int, str] = {}
    for (_, is_head), run in itertools.groupby(stages, key=lambda s: (s.pool, _HEAD in s.roles)):
        pieces = list(run)
        if is_head and len(pieces) > 1:
            found |= {s.index: f"piece {k} of {len(pieces)}" for k, s in enumerate(pieces, 1)}
    return found
