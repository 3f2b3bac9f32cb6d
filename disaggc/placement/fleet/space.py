"""Goes through every pattern of a fleet and prices it: what it serves of each tier, or why it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

from disaggc.cost import AS_STORED, Array, Group, in_cache
from disaggc.placement.fleet.columns import Book
from disaggc.placement.fleet.cuts import cuts_of
from disaggc.placement.fleet.demand import Wanted
from disaggc.placement.fleet.drafted import Drafted, drafters_of
from disaggc.placement.fleet.shapes import groups_in, nested_sizes, sizes_of, splits
from disaggc.placement.fleet.split import Lack, Side, Splits, Wires, roomy, side_of, split_mode, wires_of
from disaggc.placement.fleet.timetable import Timetable, batch_grid, requests_grid
from disaggc.placement.fleet.whole import (
    MICRO_BATCHES,
    MOST_REQUESTS,
    price_prefill,
    price_whole,
    taking_in,
)
from disaggc.placement.modes import holds, serving_format
from disaggc.placement.pricing import RESERVE
from disaggc.targets import System


class Space:
    """The patterns of a fleet.

    Args:
        wanted: What is asked for.
        tell: Told what is being done.
    """

    def __init__(self, wanted: Wanted, tell: Callable[[str], None] = lambda _: None) -> None:
        self.wanted, self.tell = wanted, tell
        self.layers = wanted.pieces.layers
        self.cuts = cuts_of(wanted.pieces)
        self.systems = [(s, n) for s, n in wanted.fleet if self._holds(s)]
        self.unfit = [s for s, _ in wanted.fleet if not self._holds(s)]
        self.shapes = {s.name: self._shapes(s, n) for s, n in self.systems}
        replicas = {g.dp for groups in self.shapes.values() for g in groups}
        replicas |= {g.dp for homes, _, _ in self._pairs for g in homes}
        batches = batch_grid(sorted(replicas), MOST_REQUESTS)
        self.grid = len(MICRO_BATCHES) * len(requests_grid(MOST_REQUESTS))
        self.table = Timetable(wanted.pieces, [t.load for t in wanted.tiers], wanted.formats, batches)
        self._drafting = self._with_draft(batches)
        self._sides: dict[tuple[int, bool, int], Side | Lack] = {}

    def _with_draft(self, batches: Array) -> tuple[Timetable, Timetable] | None:
        """Times of the model as it verifies and of the drafter as it drafts, if there is one."""
        tiers, draft, formats = self.wanted.tiers, self.wanted.draft, self.wanted.formats
        if draft is None:
            return None
        verifying = [t.drafted or t.load for t in tiers]
        drafting = [replace(load, step_tokens=1, accepted=load.accepted) for load in verifying]
        return (
            Timetable(self.wanted.pieces, verifying, formats, batches),
            Timetable(draft, drafting, formats, batches),
        )

    def _holds(self, system: System) -> bool:
        draft = () if self.wanted.draft is None else self.wanted.draft.pieces
        pieces = (*self.wanted.pieces.pieces, *draft)
        return all(holds(system.device, p, self.wanted.formats) for p in pieces)

    def _why_unfit(self, system: System) -> str:
        asked = self.wanted.formats.weights
        served = "stored as they are" if asked == AS_STORED else f"in {serving_format(self.wanted.formats)}"
        held = ", ".join(system.device.formats)
        return (
            f"{system.device.name} holds weights in {held}, and the job serves them {served}. "
            f"Set weights = '{system.device.formats[0]}' in [model]"
        )

    def _shapes(self, system: System, count: int) -> list[Group]:
        shapes = (g for size in sizes_of(system, count) for g in groups_in(system, size, self.layers))
        return [in_cache(group, self._resident) for group in shapes]

    @cached_property
    def _resident(self) -> float:
        """Bytes of all weights."""
        return self.wanted.pieces.resident_bytes(self.wanted.formats)

    def priced(self) -> Book:
        """Every pattern of every tier."""
        book = Book()
        for tier, demand in enumerate(self.wanted.tiers):
            for system in self.unfit:
                book.tally(tier, f"anything on {system.name}").unfit = self._why_unfit(system)
            self.tell(f"{demand.name}: pricing patterns")
            self._on_one_group(book, tier)
            if len(self.cuts):
                self._parted_decode(book, tier)
            if self._drafting is not None and demand.drafted is not None:
                self._drafted_decode(book, tier, *self._drafting)
        return book

    def _drafted_decode(self, book: Book, tier: int, verifying: Timetable, drafting: Timetable) -> None:
        """The model on each shape, with the drafter beside it and on each other system."""
        demand, draft = self.wanted.tiers[tier], self.wanted.draft
        assert demand.drafted is not None and draft is not None
        count = demand.drafted.step_tokens - 1
        for name, groups in self.shapes.items():
            elsewhere = [self._drafters(s) for s, _ in self.systems if s.name != name]
            for group in (g for g in groups if not g.spilled_experts and not g.spilled_cache):
                most = taking_in(self.wanted, tier, group)
                for shapes in ([group], *elsewhere):
                    drafters = drafters_of(drafting, tier, shapes, count)
                    Drafted(demand, tier, verifying, group, drafters, most).offer(book)

    def _drafters(self, system: System) -> list[Group]:
        """Shapes of a drafter: within one system, for it is small."""
        assert self.wanted.draft is not None
        layers = self.wanted.draft.layers
        shapes = (g for size in nested_sizes(system.devices) for g in groups_in(system, size, layers))
        return [g for g in shapes if not g.spilled_experts and not g.spilled_cache]

    def _on_one_group(self, book: Book, tier: int) -> None:
        homes = [system for system, _ in self.systems]
        for groups in self.shapes.values():
            for group in groups:
                price_whole(book, self.wanted, self.table, tier, group)
                price_prefill(book, self.wanted, self.table, tier, group, homes)

    def _parted_decode(self, book: Book, tier: int) -> None:
        wires = wires_of(self.table, tier, self.cuts)
        for groups, forwards, joined in self._pairs:
            tally = book.tally(tier, split_mode(groups[0].system, forwards[0].system))
            tally.considered += len(groups) * len(forwards) * len(self.cuts) * self.grid
            lack = self._together(groups[0], forwards[0]) if joined else None
            if lack is not None:
                tally.lacks(lack.needed, lack.usable)
                continue
            here, away = self._side(groups, tier, home=True), self._side(forwards, tier, home=False)
            for side in (here, away):
                if isinstance(side, Lack):
                    tally.lacks(side.needed, side.usable)
            if isinstance(here, Side) and isinstance(away, Side):
                self._offer_splits(book, tier, here, away, wires, joined)

    def _together(self, here: Group, away: Group) -> Lack | None:
        """What all weights lack on the devices of both sides together, before any shape is looked at."""
        formats = self.wanted.formats
        pieces = self.wanted.pieces
        needed = sum(p.count * p.resident_bytes(formats) for p in pieces.pieces)
        needed -= sum((len(tie.pieces) - 1) * tie.resident_bytes(formats) for tie in pieces.ties)
        device = here.device
        room = device.main.capacity.si + (device.slower.capacity.si if device.slower is not None else 0.0)
        usable = (here.reserved + away.reserved) * room * (1 - RESERVE)
        return Lack(needed, usable) if needed > usable else None

    def _side(self, groups: list[Group], tier: int, home: bool) -> Side | Lack:
        """The shapes of one side that are worth pairing, or what the nearest of them lacks.

        A feed-forward side holds no caches, so that it is one for all tiers of equal steps.
        """
        load = self.table.loads[tier]
        key = (id(groups), home, tier if home else load.step_tokens)
        if key not in self._sides:
            on = 1 - self.cuts.away if home else self.cuts.away
            found = roomy(self.table, tier, groups, on)
            made = found if isinstance(found, Lack) else side_of(self.table, tier, found, on).undominated()
            self._sides[key] = made
        return self._sides[key]

    def _offer_splits(
        self, book: Book, tier: int, homes: Side, forward: Side, wires: Wires, joined: bool
    ) -> None:
        """Price every pair; shapes that could serve most go first, so that others need not be priced."""
        one_by_one = [homes[k : k + 1] for k in range(len(homes.groups))]
        ways = [Splits(self.wanted, self.table, tier, home, forward, wires, joined) for home in one_by_one]
        for way in sorted(ways, key=lambda w: -w.ceiling):
            way.offer(book)

    @cached_property
    def _pairs(self) -> list[tuple[list[Group], list[Group], bool]]:
        """Shapes for attention, shapes for feed-forward, and whether they share a scale-up domain."""
        names = [system.name for system, _ in self.systems]
        home = {name: [g for g in self.shapes[name] if not g.spilled_experts] for name in names}
        away = {name: [g for g in self.shapes[name] if not g.spilled_cache] for name in names}
        apart = [(home[a], away[b], False) for a in names for b in names if a != b]
        return apart + [pair for system, count in self.systems for pair in self._parted(system, count)]

    def _parted(self, system: System, count: int) -> Iterator[tuple[list[Group], list[Group], bool]]:
        """The same within the devices of one replica."""
        for size in sizes_of(system, count):
            for here, away in splits(system, size):
                home, forward = (
                    [in_cache(g, self._resident) for g in groups_in(system, part, self.layers)]
                    for part in (here, away)
                )
                home = [g for g in home if not g.spilled_experts]
                forward = [g for g in forward if not g.spilled_cache]
                yield home, forward, size <= system.domain
