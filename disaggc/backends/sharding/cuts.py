"""Which elements of an axis a shard holds."""

from __future__ import annotations

from dataclasses import dataclass

_NAMED = 64
"""Greater degrees are not proposed."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A run of elements of an axis.

    Attributes:
        start, stop: The run, as indices.
        extent: Elements of the whole axis.
    """

    start: int
    stop: int
    extent: int

    @property
    def size(self) -> int:
        """Elements of the run."""
        return self.stop - self.start

    def within(self, offset: int, extent: int) -> Cut:
        """The same elements of an axis that this one is a piece of, ``offset`` elements from its start."""
        return Cut(self.start + offset, self.stop + offset, extent)

    def times(self, factor: int) -> Cut:
        """The run where each element stands for ``factor`` neighbouring ones."""
        return Cut(self.start * factor, self.stop * factor, self.extent * factor)

    def over(self, factor: int) -> Cut:
        """The run in blocks of ``factor`` elements; it begins and ends with one."""
        return Cut(self.start // factor, self.stop // factor, -(-self.extent // factor))


def even(extent: int, shards: int, block: int = 1) -> tuple[Cut, ...] | None:
    """Equal runs of whole blocks, one a shard; None where they do not divide."""
    if extent % (shards * block):
        return None
    size = extent // shards
    return tuple(Cut(i * size, (i + 1) * size, extent) for i in range(shards))


def undivided(what: str, extent: int, shards: int) -> str:
    """Why there are no equal runs, and which numbers of shards would have some."""
    fits = [str(degree) for degree in range(2, min(extent, _NAMED) + 1) if extent % degree == 0]
    return f"{what}, which {shards} does not divide ({', '.join(fits) or 'nothing'} would)"
