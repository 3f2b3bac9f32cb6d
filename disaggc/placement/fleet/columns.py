"""What a fleet is made of: columns, each one replica of a pattern for a tier, what it takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from disaggc.cost import Group

Uses = tuple[tuple[str, int], ...]
"""System to devices that a replica sets aside there, by system name."""


@dataclass(frozen=True, slots=True)
class Column:
    """One replica of one pattern for one tier.

    Attributes:
        tier: Index of the tier.
        form: 'whole' (prefill and decode), 'decode', or 'prefill'.
        mode: What it does where, as reported.
        home: The system that holds the caches of running requests.
        uses: What it sets aside.
        requests_per_s: What one replica serves at most, within the tier's times.
        groups: Its devices: one group, attention and feed-forward, or verifier and drafter.
        cut: Index of its cut; -1 for none.
        batch, micro_batches: Requests of a micro-batch of the whole replica, and how many are in flight.
        step_s: Seconds of one decode step; 0 for prefill.
        ttft_s: Seconds to the first token at that rate, queueing and hand-over included; 0 for decode.
        speculative: Whether a draft is verified in each step.
    """

    tier: int
    form: str
    mode: str
    home: str
    uses: Uses
    requests_per_s: float
    groups: tuple[Group, ...]
    cut: int = -1
    batch: int = 0
    micro_batches: int = 0
    step_s: float = 0.0
    ttft_s: float = 0.0
    speculative: bool = False

    @property
    def devices(self) -> int:
        """All devices that it sets aside."""
        return sum(n for _, n in self.uses)


@dataclass(slots=True)
class Tally:
    """What became of one mode of one tier while its patterns were priced.

    Attributes:
        unfit: Why none could be priced at all; '' where they were.
        considered: Patterns priced: shapes x cuts x micro-batches x batches.
        fits: Those of them that serve the tier or, where none does, whose least batch fits its memories.
        short_bytes: The least that any lacked on one device, where none fits.
        needed_bytes, usable_bytes: What that one needed and had.
        fastest_token_s: Seconds a token of one request alone, where any fits.
        least_ttft_s: Without a queue, for patterns that prefill.
        beaten_requests_per_s: The most that any pattern could serve that was left out unpriced, because its
            attention machines serve as much alone or with fewer others.
        best: The most requests per second that a device brings, with the column; None if there is none.
    """

    unfit: str = ""
    considered: int = 0
    fits: int = 0
    short_bytes: float = float("inf")
    needed_bytes: float = 0.0
    usable_bytes: float = 0.0
    fastest_token_s: float = float("inf")
    least_ttft_s: float = float("inf")
    beaten_requests_per_s: float = 0.0
    best: Column | None = None

    def lacks(self, needed: float, usable: float) -> None:
        """Note a pattern that does not fit."""
        if needed - usable < self.short_bytes:
            self.short_bytes, self.needed_bytes, self.usable_bytes = needed - usable, needed, usable

    def offer(self, column: Column) -> None:
        """Note a pattern that serves the tier."""
        now = self.best.requests_per_s / self.best.devices if self.best is not None else 0.0
        if column.requests_per_s / column.devices > now:
            self.best = column


@dataclass(slots=True)
class Book:
    """Every pattern that serves a tier, the best of each kind; and what became of the others.

    Two columns of one tier, form and home that set aside the same devices differ in their rate alone, so
    that only the faster can be in a best plan.
    """

    columns: dict[tuple[int, str, str, Uses], Column] = field(default_factory=dict)
    tallies: dict[tuple[int, str], Tally] = field(default_factory=dict)
    alone: dict[tuple[int, str, str], dict[int, float]] = field(default_factory=dict)

    def tally(self, tier: int, mode: str) -> Tally:
        """The tally of a mode."""
        return self.tallies.setdefault((tier, mode), Tally())

    def best(self, tier: int, form: str, home: str, uses: Uses) -> float:
        """The most requests per second that is known with these devices, or with home's among them alone.

        Alone they may also be so many replicas of a smaller size.
        """
        known = self.columns.get((tier, form, home, uses))
        devices = dict(uses)[home]
        alone = (devices // size * rate for size, rate in self.alone.get((tier, form, home), {}).items())
        return max(0.0 if known is None else known.requests_per_s, max(alone, default=0.0))

    def offer(self, column: Column) -> None:
        """Keep a column if it is the best of its kind so far."""
        key = (column.tier, column.form, column.home, column.uses)
        known = self.columns.get(key)
        if known is None or column.requests_per_s > known.requests_per_s:
            self.columns[key] = column
            if len(column.uses) == 1 and column.uses[0][0] == column.home:
                self.alone.setdefault(key[:3], {})[column.uses[0][1]] = column.requests_per_s
        self.tally(column.tier, column.mode).offer(column)

    @property
    def considered(self) -> int:
        """Patterns priced, all tiers together."""
        return sum(tally.considered for tally in self.tallies.values())


def undominated(columns: Iterable[Column]) -> list[Column]:
    """The columns that no number of replicas of another one replaces at no more devices of any system.

    Sizes nest, so that the smaller replicas go wherever the larger one went.
    """
    kinds: dict[tuple[int, str, str], list[Column]] = {}
    for column in columns:
        kinds.setdefault((column.tier, column.form, column.home), []).append(column)
    return [c for kind in kinds.values() for c in _undominated(kind)]


def _undominated(columns: list[Column]) -> Iterator[Column]:
    ordered = sorted(columns, key=lambda c: (c.devices, c.uses, -c.requests_per_s))
    for k, column in enumerate(ordered):
        if not any(_replaces(other, column, j < k) for j, other in enumerate(ordered) if j != k):
            yield column


def _replaces(other: Column, column: Column, earlier: bool) -> bool:
    mine, theirs = dict(column.uses), dict(other.uses)
    if not set(theirs) <= set(mine):
        return False
    times = min(mine[name] // devices for name, devices in theirs.items())
    gained = times * other.requests_per_s
    same = times == 1 and gained == column.requests_per_s and mine == theirs
    return times > 0 and gained >= column.requests_per_s and (earlier or not same)
