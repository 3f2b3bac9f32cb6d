"""The states of a micro-batch before its first token, and what of them is worth moving."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from disaggc.errors import PlanError
from disaggc.plans import StateRef
from disaggc.runtime.engine import OrtValue
from disaggc.runtime.tensors import container, zeros


def initial(state: StateRef, extents: Mapping[str, int]) -> OrtValue:
    """The state of requests without tokens: empty if it grows, zeros if it has a fixed size.

    Args:
        state: The state.
        extents: What 'batch' and 'capacity' stand for.

    Raises:
        PlanError: Its shape uses a word that means nothing here.
    """
    return zeros(_resolve(state, {**extents, "cached": 0, "total": 0}), state.dtype)


def live_bytes(state: StateRef, extents: Mapping[str, int], tokens: int) -> int:
    """Bytes that ``tokens`` tokens have filled, which is what a hand-over has to move."""
    shape = _resolve(state, {**extents, "cached": tokens, "total": tokens})
    if state.axis is not None:
        shape[state.axis] = min(tokens, shape[state.axis])
    return prod(shape) * np.dtype(container(state.dtype)).itemsize


def _resolve(state: StateRef, extents: Mapping[str, int]) -> list[int]:
    unknown = [dim for dim in state.shape if isinstance(dim, str) and dim not in extents]
    if unknown:
        raise PlanError(
            f"State '{state.past}' has extent '{unknown[0]}', which is none of "
            f"{', '.join(repr(word) for word in sorted(extents))}. Compile the plan again."
        )
    known = {**extents, "capacity": state.fixed_capacity or extents["capacity"]}
    return [known[dim] if isinstance(dim, str) else dim for dim in state.shape]
