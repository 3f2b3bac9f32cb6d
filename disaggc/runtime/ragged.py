"""Whether requests of unequal length may share a micro-batch: a question to the model's graph.

Every exporter's graph is right for rows of equal length. Some also take a length for each row, of a
cache that is a buffer; whether they really heed it everywhere (in positions, in masks) no plan can
say. So what looks able to is tried: two requests of unequal length, apart and together, must give
the same logits. Until that is known, and where it fails, a micro-batch has rows of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from disaggc.plans import Plan
from disaggc.runtime.requests import Live, Request

_PROBES = (Request((1, 2, 3), 4), Request((4, 5, 6, 7, 8), 4))
_TOLERANCE = 1e-3
"""Of the largest logit: far above rounding, far below what a wrong length does."""
_LENGTHS = {"past_lengths", "kv_lengths", "attention_mask"}


def may_be_ragged(plan: Plan) -> bool:
    """Whether caches are buffers, and inputs say a length and a position for each row."""
    kinds = {feed.kind for feed in plan.feeds}
    rows = all("batch" in feed.shape for feed in plan.feeds if feed.kind in _LENGTHS | {"position_ids"})
    buffers = all(
        state.axis is None or state.shape[state.axis] == "capacity" or state.fixed_capacity is not None
        for state in plan.states
    )
    return bool(plan.states) and bool(kinds & _LENGTHS) and rows and buffers


def is_ragged(plan: Plan, attempt: Callable[[Sequence[Live], bool], None]) -> bool:
    """Whether a model gives two requests of unequal length the same logits apart and together.

    Args:
        plan: The plan.
        attempt: Runs requests in one lane, keeping their logits; with or without sharing.
    """
    if not may_be_ragged(plan) or any(request.context > _capacity(plan) for request in _PROBES):
        return False
    apart = [Live(index, request) for index, request in enumerate(_PROBES)]
    together = [Live(index, request) for index, request in enumerate(_PROBES)]
    attempt(apart, False)
    attempt(together, True)
    if any(live.error for live in (*apart, *together)):
        return False
    a = np.array([live.logits for live in apart])
    b = np.array([live.logits for live in together])
    return bool(np.abs(a - b).max() <= _TOLERANCE * np.abs(a).max())


def _capacity(plan: Plan) -> float:
    return min((s.fixed_capacity for s in plan.states if s.fixed_capacity), default=float("inf"))
