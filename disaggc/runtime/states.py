"""The states of a micro-batch: empty ones, those made of rows of others, and what is worth moving.

A micro-batch never changes: when a request joins or leaves, a new one is formed of the rows that
are to go on. That copies what their tokens have filled, which a step of attention reads anyway; it
asks nothing of the model's graph, and so is right for every exporter's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from disaggc.errors import OutOfMemoryError, PlanError
from disaggc.plans import StateRef
from disaggc.runtime.engine import OrtValue
from disaggc.runtime.memory import no_memory
from disaggc.runtime.tensors import Array, as_type, container, number_of, view, zeros


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a micro-batch, and how many tokens each has cached."""

    group: int
    rows: tuple[int, ...]
    cached: tuple[int, ...]


Place = Callable[[Sequence[int], int], OrtValue | None]
"""Gives zeros, of a shape and an element type's number, where others can read them; None without room."""


def initial(state: StateRef, extents: Mapping[str, int], place: Place | None = None) -> OrtValue:
    """The state of requests without tokens: empty if it grows, zeros if it has a fixed size.

    Args:
        state: The state.
        extents: What 'batch' and 'capacity' stand for.
        place: Where it should lie; in this process's own memory if left out, or where there is no room.

    Raises:
        PlanError: Its shape uses a word that means nothing here.
        OutOfMemoryError: There is no memory for it.
    """
    return _zeros(state, _resolve(state, {**extents, "cached": 0, "total": 0}), place)


def gather(
    state: StateRef,
    held: Sequence[OrtValue],
    pieces: Sequence[Piece],
    capacity: int,
    *,
    may_keep: bool = True,
    place: Place | None = None,
) -> OrtValue:
    """The state of a micro-batch that is made of rows of others.

    Args:
        state: The state.
        held: The tensor of each piece's micro-batch; it may hold just the tokens that it has.
        pieces: Which rows of each.
        capacity: Tokens that a state of fixed buffer must hold.
        may_keep: Whether the tensor of one piece may be taken as it is, where nothing of it changes.
        place: See ``initial``.

    Raises:
        PlanError: Its shape uses a word that means nothing here, or has no place for requests.
        OutOfMemoryError: There is no memory for it.
    """
    rows = sum(len(piece.rows) for piece in pieces)
    if _is_buffer(state):
        shape = _resolve(state, {"batch": rows, "capacity": capacity, "cached": 0, "total": 0})
    else:
        shape = [*held[0].shape()]
        shape[batch_axis(state)] = rows
    whole = len(held) == 1 and list(held[0].shape()) == shape and pieces[0].rows == tuple(range(rows))
    if whole and may_keep:
        return held[0]
    found = _zeros(state, shape, place)
    array, target = view(found), 0
    for value, piece in zip(held, pieces, strict=True):
        _copy_rows(state, view(value), piece, array, target)
        target += len(piece.rows)
    return found


def trimmed(state: StateRef, value: OrtValue, tokens: int) -> OrtValue:
    """A state without the part of its buffer that ``tokens`` tokens have not filled: what is to be sent."""
    if not _is_buffer(state) or state.axis is None:
        return value
    array = view(value)[(*[slice(None)] * state.axis, slice(tokens))]
    return as_type(np.ascontiguousarray(array), value.element_type())


def batch_axis(state: StateRef) -> int:
    """The axis that counts requests.

    Raises:
        PlanError: There is none.
    """
    if "batch" not in state.shape:
        raise PlanError(
            f"State '{state.past}' has no extent 'batch', so requests cannot be told apart. "
            f"Compile the plan again."
        )
    return state.shape.index("batch")


def live_bytes(state: StateRef, extents: Mapping[str, int], tokens: int) -> int:
    """Bytes that ``tokens`` tokens have filled, which is what a hand-over has to move."""
    shape = _resolve(state, {**extents, "cached": tokens, "total": tokens})
    if state.axis is not None:
        shape[state.axis] = min(tokens, shape[state.axis])
    return prod(shape) * np.dtype(container(state.dtype)).itemsize


def _is_buffer(state: StateRef) -> bool:
    """Whether the tokens lie in a buffer that is larger than they are."""
    return state.axis is not None and state.shape[state.axis] == "capacity"


def _copy_rows(state: StateRef, source: Array, piece: Piece, target: Array, first: int) -> None:
    """Copy rows one by one; of a buffer, only the tokens that each has."""
    axis = batch_axis(state)
    for number, (row, tokens) in enumerate(zip(piece.rows, piece.cached, strict=True)):
        there, here = [slice(None)] * source.ndim, [slice(None)] * source.ndim
        there[axis] = slice(row, row + 1)
        here[axis] = slice(first + number, first + number + 1)
        if _is_buffer(state) and state.axis is not None:
            there[state.axis] = here[state.axis] = slice(tokens)
        target[tuple(here)] = source[tuple(there)]


def _zeros(state: StateRef, shape: Sequence[int], place: Place | None) -> OrtValue:
    """Zeros where others can read them, if they are to and there is room; else in memory of our own."""
    placed = place(shape, number_of(state.dtype)) if place is not None else None
    if placed is not None:
        return placed
    try:
        return zeros(shape, state.dtype)
    except MemoryError as error:
        raise _no_memory(state, shape) from error


def _no_memory(state: StateRef, shape: Sequence[int]) -> OutOfMemoryError:
    return OutOfMemoryError(no_memory(f"state '{state.past}' of {' x '.join(map(str, shape))} {state.dtype}"))


def _resolve(state: StateRef, extents: Mapping[str, int]) -> list[int]:
    unknown = [dim for dim in state.shape if isinstance(dim, str) and dim not in extents]
    if unknown:
        raise PlanError(
            f"State '{state.past}' has extent '{unknown[0]}', which is none of "
            f"{', '.join(repr(word) for word in sorted(extents))}. Compile the plan again."
        )
    known = {**extents, "capacity": state.fixed_capacity or extents["capacity"]}
    return [known[dim] if isinstance(dim, str) else dim for dim in state.shape]
