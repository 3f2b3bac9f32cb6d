"""The model inputs of a step, computed from what each is for and from the lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from disaggc.errors import JobError, PlanError, nearest
from disaggc.plans import Feed
from disaggc.runtime.engine import OrtValue
from disaggc.runtime.tensors import Array, container, wrap

KINDS = (
    "token_ids",
    "position_ids",
    "attention_mask",
    "past_lengths",
    "total_length",
    "write_indices",
    "kv_lengths",
)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How far a micro-batch is.

    Attributes:
        batch: Requests.
        cached: Tokens of the longest that are cached.
        new: Tokens of each that are computed in this step.
        each: Tokens of each that are cached [batch], where they are unequally long.
    """

    batch: int
    cached: int
    new: int
    each: Array | None = None

    @classmethod
    def of(cls, cached: Array, new: int, *, is_ragged: bool) -> Lengths:
        """Those of requests that have so many tokens cached [batch]; each is told only where they differ."""
        return cls(len(cached), int(cached.max()), new, cached if is_ragged else None)

    @property
    def total(self) -> int:
        """Tokens that the step attends to."""
        return self.cached + self.new


class _Count:
    """A tensor of counts that all rise by the same in each step."""

    def __init__(self, array: Array) -> None:
        self._array = array
        first = int(array.flat[0])
        self._level = first if (array == first).all() else None

    def add(self, new: int) -> None:
        """Raise all of them; where they are alike, filling takes a tenth of adding."""
        if self._level is None:
            self._array += new
        else:
            self._level += new
            self._array.fill(self._level)


class Feeder:
    """Computes the feeds of one micro-batch; a tensor whose shape stays is written in place."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self._held: dict[str, tuple[Array, OrtValue]] = {}
        self._steady = {feed.input for feed in feeds if {"cached", "total"}.isdisjoint(feed.shape)}
        self._size = (0, 0)
        self._ids: list[Array] = []
        self._counts: list[_Count] = []
        self._is_prepared = False

    def step(self, lengths: Lengths, tokens: Array) -> dict[str, OrtValue]:
        """The feeds of a step.

        Args:
            lengths: Where the micro-batch is.
            tokens: New token ids [batch, new].

        Raises:
            JobError: Nobody knows what an input is for.
            PlanError: A feed's kind or shape makes no sense.
        """
        size = (lengths.batch, lengths.new)
        if size != self._size:
            self._held.clear()  # other extents than in the last step
            self._size = size
        self._is_prepared = False
        return {feed.input: self._tensor(feed, lengths, tokens) for feed in self._feeds}

    @property
    def is_steady(self) -> bool:
        """Whether every feed keeps its tensor from step to step."""
        return len(self._steady) == len(self._feeds)

    def advance(self, tokens: Array) -> None:
        """The feeds of the step after the last one, in the same tensors: as ``step``, if ``is_steady``.

        Args:
            tokens: New token ids [batch, new], as many as in the last step.
        """
        if not self._is_prepared:
            self._prepare(tokens.shape)
        for array in self._ids:
            array[...] = tokens
        for count in self._counts:
            count.add(tokens.shape[1])

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Look at the tensors of the last step as ``advance`` does: ids, and what grows by ``new``."""
        self._ids, self._counts, self._is_prepared = [], [], True
        for feed in self._feeds:
            array = self._held[feed.input][0]
            if feed.kind == "token_ids":
                self._ids.append(array.reshape(shape))
            else:
                self._counts.append(_Count(array))

    def _tensor(self, feed: Feed, lengths: Lengths, tokens: Array) -> OrtValue:
        held = self._held.get(feed.input)
        if held is None or (feed.input not in self._steady and held[0].shape != _shape(feed, lengths)):
            array = np.empty(_shape(feed, lengths), container(feed.dtype))
            held = self._held[feed.input] = (array, wrap(array))
        _fill(held[0], feed, _content(feed, lengths, tokens))
        return held[1]


def feed_array(feed: Feed, lengths: Lengths, tokens: Array) -> Array:
    """One feed of a step, in the input's own element type and shape; errors are those of ``Feeder.step``."""
    array = np.empty(_shape(feed, lengths), container(feed.dtype))
    _fill(array, feed, _content(feed, lengths, tokens))
    return array


def _shape(feed: Feed, lengths: Lengths) -> tuple[int, ...]:
    words = {"batch": lengths.batch, "cached": lengths.cached, "new": lengths.new, "total": lengths.total}
    try:
        return tuple([words[dim] if isinstance(dim, str) else dim for dim in feed.shape])
    except KeyError as error:
        raise PlanError(
            f"Input '{feed.input}' has extent '{error.args[0]}'.{nearest(error.args[0], words)}"
        ) from error


def _fill(array: Array, feed: Feed, content: Array | int) -> None:
    if isinstance(content, np.ndarray) and content.shape != array.shape and content.size == array.size:
        content = content.reshape(array.shape)
    try:
        array[...] = content
    except ValueError as error:
        raise PlanError(
            f"Input '{feed.input}' has shape {list(feed.shape)}, which does not suit '{feed.kind}'. "
            f"Compile the plan again."
        ) from error


def _content(feed: Feed, lengths: Lengths, tokens: Array) -> Array | int:
    """What a feed holds; a number fills all of it."""
    each = lengths.each
    match feed.kind:
        case "token_ids":
            return tokens
        case "position_ids":
            steps = np.arange(lengths.new)
            return lengths.cached + steps if each is None else each[:, None] + steps
        case "attention_mask":
            return 1 if each is None else np.arange(lengths.total) < each[:, None] + lengths.new
        case "past_lengths":
            return lengths.total - 1 if each is None else each + (lengths.new - 1)
        case "write_indices":
            return lengths.cached if each is None else each
        case "kv_lengths":
            return lengths.total if each is None else each + lengths.new
        case "total_length":
            return lengths.total
        case "unknown":
            raise JobError(
                f"Model input '{feed.input}' is of unknown use, so it cannot be fed. "
                f"Export the model with inputs of these kinds only: {', '.join(KINDS)}."
            )
        case _:
            raise PlanError(f"Input '{feed.input}' is of kind '{feed.kind}'.{nearest(feed.kind, KINDS)}")
