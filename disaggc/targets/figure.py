"""A number with its unit, source, date, confidence and interval."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Self

from disaggc.errors import DeclarationError, nearest
from disaggc.targets.units import unit_named

INFERRED = "inferred"


@functools.total_ordering
class Confidence(Enum):
    """How far a figure can be trusted, strongest first; a weaker one compares greater.

    Attributes:
        meaning: What the code stands for, in one line.
    """

    meaning: str

    M = "M", "measured on the very machine that the declaration is for, with the spread of the repeats"
    V = "V", "vendor-stated, read in the vendor's own page, datasheet or documentation"
    V2 = "V2", "vendor-stated, read through somebody's copy of the vendor's page or slide"
    P = "P", "press, analyst or academic"
    I = "I", "inferred: by arithmetic, from memory, or read off a chart by eye"  # noqa: E741 - the facts' code

    def __new__(cls, code: str, meaning: str) -> Self:
        """A member whose value is ``code`` alone."""
        member = object.__new__(cls)
        member._value_ = code
        member.meaning = meaning
        return member

    def __lt__(self, other: Confidence) -> bool:
        return self._rank < other._rank

    @property
    def _rank(self) -> int:
        return list(Confidence).index(self)

    @classmethod
    def _missing_(cls, value: object) -> None:
        codes = [member.value for member in cls]
        raise ValueError(f"Unknown confidence {value!r}.{nearest(str(value), codes)}")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that somebody stated, or that was inferred.

    Attributes:
        value: The number, in ``unit``.
        unit: One of ``units.UNITS``.
        source: A tag of ``targets/sources.toml``, or 'inferred'.
        date: When the source said so, 'YYYY', 'YYYY-MM' or 'YYYY-MM-DD'.
        confidence: How far to trust it.
        low: The lower end of the interval, in ``unit``; None if none is known.
        high: The upper end of the interval, in ``unit``; None if none is known.
        note: How it was inferred, or what else to know; an inferred figure must have one.
    """

    value: float
    unit: str
    source: str
    date: str
    confidence: Confidence
    low: float | None = None
    high: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        unit_named(self.unit)
        self._check_interval()
        self._check_provenance()

    @property
    def base(self) -> str:
        """The base unit of ``si``, such as 'B', 'B/s', 'FLOP/s', 's', 'W' or 'USD/h'."""
        return unit_named(self.unit).base

    @property
    def si(self) -> float:
        """The value in ``base`` units."""
        return self.value * unit_named(self.unit).factor

    @property
    def low_si(self) -> float:
        """The lower end in ``base`` units; the value itself where no interval is known."""
        return self.si if self.low is None else self.low * unit_named(self.unit).factor

    @property
    def high_si(self) -> float:
        """The upper end in ``base`` units; the value itself where no interval is known."""
        return self.si if self.high is None else self.high * unit_named(self.unit).factor

    def _check_interval(self) -> None:
        low, high = (self.value if end is None else end for end in (self.low, self.high))
        if not all(math.isfinite(end) for end in (low, self.value, high)):
            raise DeclarationError(f"A figure must be finite, got {low} <= {self.value} <= {high}.")
        if not 0 <= low <= self.value <= high:
            raise DeclarationError(f"Expected 0 <= low <= value <= high, got {low}, {self.value}, {high}.")

    def _check_provenance(self) -> None:
        if self.source == INFERRED and self.confidence is not Confidence.I:
            raise DeclarationError(
                f"Source 'inferred' goes with confidence 'I', not '{self.confidence.value}'."
            )
        if self.confidence is Confidence.I and not self.note:
            raise DeclarationError("A figure of confidence 'I' needs a 'note' that says how it was inferred.")


def weakest(figures: Iterable[Figure]) -> Confidence:
    """The confidence of the least trusted figure; V if there is none."""
    return max((figure.confidence for figure in figures), default=Confidence.V)
