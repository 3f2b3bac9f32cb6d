"""Patterns that part decode between attention and feed-forward, on two systems or within one (AFD)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from disaggc.cost import Array, Group
from disaggc.placement.fleet.columns import Book, Column, Tally, Uses
from disaggc.placement.fleet.cuts import Cuts
from disaggc.placement.fleet.demand import Wanted
from disaggc.placement.fleet.timetable import Timetable, requests_grid
from disaggc.placement.fleet.whole import MICRO_BATCHES, MOST_REQUESTS, taking_in
from disaggc.placement.formulation import step_overhead_s
from disaggc.placement.pricing import PREFILL_CHUNK, link_between, occupancy_between
from disaggc.targets import System

FLYING = np.array(MICRO_BATCHES, dtype=np.float64)
ROUNDING = 1e-9
"""Share by which what just fits may seem not to."""
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Side:
    """Shapes of one side of every cut, stacked: (shape, cut, batch) seconds, (shape, cut) bytes.

    Attributes:
        path, busy: Seconds of a micro-batch, and on the busiest pipeline stage.
        weights: On one device.
        cache: On one device for each request in flight of a replica.
        logits: On one device for each token in flight of a replica.
        live: (shape,) bytes of activations likewise.
        usable: (shape,) bytes.
        latency, bytes_per_s: (shape,) of the links to other systems.
        slow_weights, slow_cache, slow_usable: The same of slower memory.
    """

    groups: tuple[Group, ...]
    path: Array
    busy: Array
    weights: Array
    cache: Array
    logits: Array
    live: Array
    usable: Array
    latency: Array
    bytes_per_s: Array
    slow_weights: Array
    slow_cache: Array
    slow_usable: Array

    def __getitem__(self, which: slice | Index) -> Side:
        """Some of the shapes."""
        rows = range(len(self.groups))[which] if isinstance(which, slice) else which
        stacked = (getattr(self, f.name)[which] for f in fields(self)[1:])
        return Side(tuple(self.groups[k] for k in rows), *stacked)

    def undominated(self) -> Side:
        """Without shapes that another one of equal size is as good as in every time and every byte."""
        alike = ("groups", "usable", "slow_usable", "latency", "bytes_per_s")
        parts = [getattr(self, f.name) for f in fields(self) if f.name not in alike]
        facts = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        kind = np.array([(g.reserved, g.dp) for g in self.groups])
        kept: list[int] = []
        for k in range(len(facts)):
            others = np.flatnonzero((kind == kind[k]).all(axis=1))
            as_good = (facts[others] <= facts[k]).all(axis=1)
            equal = (facts[others] == facts[k]).all(axis=1)
            if not (as_good & (~equal | (others < k))).any():
                kept.append(k)
        return self[np.array(kept, dtype=np.intp)]

    @property
    def replicas(self) -> Array:
        """(shape,): data-parallel replicas."""
        return np.array([float(g.dp) for g in self.groups])


def side_of(table: Timetable, tier: int, groups: Sequence[Group], on: Array) -> Side:
    """The sheets of ``groups`` for the pieces that each cut puts ``on`` this side (cut, piece)."""
    sheets = [table.sheet(group, tier) for group in groups]
    return Side(
        tuple(groups),
        np.stack([on @ s.decode for s in sheets]),
        np.stack([on @ s.busy for s in sheets]),
        np.stack([on @ s.standing.weights for s in sheets]),
        np.stack([on @ s.cache for s in sheets]),
        np.stack([on @ s.standing.logits for s in sheets]),
        np.array([s.standing.live for s in sheets]),
        np.array([s.usable for s in sheets]),
        np.array([g.system.scale_out.latency.si for g in groups]),
        np.array([g.system.scale_out.bandwidth_one_way.si * g.systems for g in groups]),
        np.stack([on @ s.standing.slow_weights for s in sheets]),
        np.stack([on @ s.slow_cache for s in sheets]),
        np.array([s.pricing.usable_slower_bytes(0) for s in sheets]),
    )


@dataclass(frozen=True)
class Wires:
    """What every cut sends in a step: messages (cut,), and bytes of a micro-batch (cut, batch)."""

    messages_there: Array
    messages_back: Array
    bytes_there: Array
    bytes_back: Array


def wires_of(table: Timetable, tier: int, cuts: Cuts) -> Wires:
    """The traffic of every cut under a tier's load."""
    return Wires(*cuts.messages(), *cuts.payloads(table.edge_bytes(tier)))


class Splits:
    """All ways to part decode of one tier between one attention shape and many feed-forward shapes.

    For each of them, each cut and each number of micro-batches the most requests that fit the memories and
    meet the tier are found by halving: step time and memory grow with requests, and so do tokens a second.
    Everything is over (shape, cut, micro-batches).

    Args:
        wanted: The model and the tiers.
        table: Timed shapes.
        tier: Index of the tier.
        home: The attention shape's side, of one shape.
        away: Feed-forward shapes.
        wires: The traffic.
        joined: Whether both sides share a scale-up domain.
    """

    def __init__(
        self, wanted: Wanted, table: Timetable, tier: int, home: Side, away: Side, wires: Wires, joined: bool
    ) -> None:
        self.wanted, self.table, self.tier = wanted, table, tier
        self.load, self.limits = wanted.tiers[tier].load, wanted.tiers[tier].limits
        self.home, self.away, self.wires, self.joined = home, away, wires, joined
        self.group = home.groups[0]
        self.requests = np.array(requests_grid(MOST_REQUESTS // self.group.dp), dtype=np.float64)
        self.at = np.searchsorted(table.batches, self.requests * self.group.dp)
        self.latency, self.bytes_per_s = (v[:, None, None] for v in self._links(joined))
        self.overhead_s = step_overhead_s((self.group, away.groups[0]))
        self.occupancy_s = occupancy_between(self.group, away.groups[0], joined)
        shapes, cuts = away.weights.shape
        self.shape = np.arange(shapes)[:, None, None]
        self.cut = np.arange(cuts)[None, :, None]

    def _links(self, joined: bool) -> tuple[Array, Array]:
        """(shape,): latency and bytes per second between the sides; as in ``pricing.link_between``."""
        if joined:
            ends = [link_between(self.group, g, joined) for g in self.away.groups]
            return np.array([latency for latency, _ in ends]), np.array([rate for _, rate in ends])
        latency = np.maximum(self.home.latency[0], self.away.latency)
        return latency, np.minimum(self.home.bytes_per_s[0], self.away.bytes_per_s)

    def steps(self, at: Index) -> Array:
        """Seconds of a decode step with ``requests[at]`` requests a micro-batch on each attention replica."""
        grid, wires = self.at[at], self.wires
        there = (
            self.latency * wires.messages_there[:, None]
            + wires.bytes_there[self.cut, grid] / self.bytes_per_s
        )
        back = (
            self.latency * wires.messages_back[:, None] + wires.bytes_back[self.cut, grid] / self.bytes_per_s
        )
        occupied = self.occupancy_s * (wires.messages_there + wires.messages_back)[:, None]
        path = self.home.path[0][self.cut, grid] + self.away.path[self.shape, self.cut, grid] + there + back
        here = self.home.busy[0][self.cut, grid] + there + occupied
        away = self.away.busy[self.shape, self.cut, grid] + back + occupied
        path = path + 2 * occupied
        step: Array = np.maximum(path, FLYING * np.maximum(here, away))
        return step + self.overhead_s

    @cached_property
    def ceiling(self) -> float:
        """Requests per second that the attention side could serve with feed-forward that takes no time."""
        flying = self.requests[:, None, None] * FLYING
        path, busy = (side[0][:, self.at].T[..., None] for side in (self.home.path, self.home.busy))
        step = np.maximum(path, busy * FLYING) + self.overhead_s
        good = self._side_fits(self.home, 0, flying) & (step <= (self.limits.tpot_s or np.inf))
        return float((np.where(good, flying * self.group.dp / step, 0.0)).max() / self.load.steps)

    def fits(self, at: Index) -> Mask:
        """Whether both sides hold that many requests."""
        flying = self.requests[at] * FLYING
        share = np.ceil(self.requests[at] * self.group.dp / self.away.replicas[:, None, None]) * FLYING
        return self._side_fits(self.home, 0, flying) & self._side_fits(self.away, slice(None), share)

    def _needed(self, side: Side, shape: int | slice, in_flight: Array) -> Array:
        """Bytes of one device's main memory with so many requests in flight on a replica."""
        tokens = np.maximum(in_flight * self.load.step_tokens, min(self.load.input_tokens, PREFILL_CHUNK))
        each = (side.cache + self.load.step_tokens * side.logits)[shape]
        live = np.asarray(side.live[shape])[..., None, None]
        return np.asarray(side.weights[shape][..., None] + each[..., None] * in_flight + live * tokens)

    def _side_fits(self, side: Side, shape: int | slice, in_flight: Array) -> Mask:
        fits: Mask = self._needed(side, shape, in_flight) <= np.asarray(side.usable[shape])[..., None, None]
        slow_weights, slow_cache = side.slow_weights[shape], side.slow_cache[shape]
        if slow_weights.any() or slow_cache.any():
            slow = slow_weights[..., None] + slow_cache[..., None] * in_flight
            fits &= slow <= np.asarray(side.slow_usable[shape])[..., None, None]
        return fits

    def most(self) -> Index:
        """The index of the most requests that fit and meet the tier; -1 where not even the fewest do."""
        slowest = self.limits.tpot_s or np.inf
        roomiest = self._roomiest()
        first = self.steps(np.zeros_like(roomiest)) <= slowest
        low = np.where(first & (roomiest >= 0), 0, -1)
        high = np.where(low == 0, roomiest + 1, 0)
        while (high - low > 1).any():
            middle = np.maximum((low + high) // 2, 0)
            fine = self.steps(middle) <= slowest
            low, high = np.where(fine & (low >= 0), middle, low), np.where(fine, high, middle)
            high = np.where(low < 0, 0, high)
        return low

    def _roomiest(self) -> Index:
        """The index of the most requests that both memories hold; -1 where they hold none."""
        mine = self._holds(self.home) / FLYING
        theirs = np.floor(self._holds(self.away) / FLYING) * self.away.replicas[:, None, None]
        most = np.minimum(mine, theirs / self.group.dp)
        at = np.searchsorted(self.requests, np.floor(most * (1 + ROUNDING)), side="right") - 1
        fits = self.fits(np.maximum(at, 0))
        return np.where(fits, at, np.where(at > 0, at - 1, -1))

    def _holds(self, side: Side) -> Array:
        """(shape, cut, 1): requests in flight that fit one replica of a side; negative for none."""
        load, chunk = self.load, min(self.load.input_tokens, PREFILL_CHUNK)
        each, live = side.cache + load.step_tokens * side.logits, side.live[:, None]
        left = side.usable[:, None] - side.weights
        with np.errstate(divide="ignore", invalid="ignore"):
            few = np.where(each > 0, (left - live * chunk) / each, np.inf)
            many = left / (each + live * load.step_tokens)
            slow = (side.slow_usable[:, None] - side.slow_weights) / side.slow_cache
        knee = chunk / load.step_tokens
        found = np.where(few <= knee, few, np.maximum(many, knee))
        found = np.where(side.slow_cache > 0, np.minimum(found, slow), found)
        return np.where(left >= live * chunk, found, -1.0)[..., None]

    def offer(self, book: Book) -> None:
        """Add the best of each size of the feed-forward side, where it can be better than what is known."""
        tally = book.tally(self.tier, self.mode)
        if not self.ceiling:
            self._note_first(tally)
            return
        home = self.group.system.name
        known = [book.best(self.tier, "decode", home, self._uses(g)) for g in self.away.groups]
        kept = np.flatnonzero(np.array(known) < self.ceiling)
        if len(kept) < len(known):
            tally.beaten_requests_per_s = max(tally.beaten_requests_per_s, self.ceiling)
        if len(kept):
            parts = self.wanted, self.table, self.tier, self.home, self.away[kept], self.wires, self.joined
            (self if len(kept) == len(known) else Splits(*parts))._offer_all(book, tally)

    @property
    def mode(self) -> str:
        """As reported."""
        return split_mode(self.group.system, self.away.groups[0].system)

    def _offer_all(self, book: Book, tally: Tally) -> None:
        most = self.most()
        if (most < 0).all():
            self._note_first(tally)
            return
        tally.fits += int((most >= 0).sum())
        at = np.maximum(most, 0)
        step, in_flight = self.steps(at), self.requests[at] * self.group.dp * FLYING
        rates = np.where(most >= 0, in_flight / (step * self.load.steps), 0.0)
        rates = np.minimum(rates, taking_in(self.wanted, self.tier, self.group))
        for chosen in self._best_of_each_size(rates):
            book.offer(self._column(rates, step, at, chosen))

    def _note_first(self, tally: Tally) -> None:
        """What becomes of the fewest requests, where nothing serves yet: the fastest token, or what lacks."""
        if tally.best is not None:
            return
        first = np.zeros((len(self.away.groups), self.away.weights.shape[1], len(FLYING)), dtype=np.intp)
        fit = self.fits(first)
        tally.fits += int(fit.sum()) * len(self.requests)
        if fit.any():
            token_s = float(self.steps(first)[fit].min()) / self.load.accepted
            tally.fastest_token_s = min(tally.fastest_token_s, token_s)
        else:
            self._note_shortage(tally)

    def _note_shortage(self, tally: Tally) -> None:
        """The least that any cut lacks for one request a replica, on the side that is shorter."""
        one, sides = np.ones((1, 1, 1)), (self.home, self.away)
        needed = [self._needed(side, slice(None), one)[..., 0] for side in sides]
        short = [n - side.usable[:, None] for n, side in zip(needed, sides, strict=True)]
        worst = np.maximum(*short)
        shape, cut = np.unravel_index(int(worst.argmin()), worst.shape)
        which = int(short[1][shape, cut] > short[0][0, cut])
        row = int(shape) if which else 0
        devices = sides[which].groups[row].devices
        usable = float(sides[which].usable[row])
        tally.lacks(float(needed[which][row, cut]) * devices, usable * devices)

    def _best_of_each_size(self, rates: Array) -> list[tuple[int, int, int]]:
        best: dict[int, tuple[float, int]] = {}
        for k, group in enumerate(self.away.groups):
            top = float(rates[k].max())
            if top > best.get(group.reserved, (0.0, 0))[0]:
                best[group.reserved] = (top, k)
        found = []
        for _, k in best.values():
            cut, m = np.unravel_index(int(rates[k].argmax()), rates[k].shape)
            found.append((k, int(cut), int(m)))
        return found

    def _uses(self, away: Group) -> Uses:
        uses = {self.group.system.name: self.group.reserved}
        uses[away.system.name] = uses.get(away.system.name, 0) + away.reserved
        return tuple(sorted(uses.items()))

    def _column(self, rates: Array, step: Array, at: Index, chosen: tuple[int, int, int]) -> Column:
        away = self.away.groups[chosen[0]]
        return Column(
            self.tier,
            "decode",
            self.mode,
            self.group.system.name,
            self._uses(away),
            float(rates[chosen]),
            (self.group, away),
            cut=chosen[1],
            batch=int(self.requests[at[chosen]]) * self.group.dp,
            micro_batches=int(FLYING[chosen[2]]),
            step_s=float(step[chosen]),
        )


@dataclass(frozen=True, slots=True)
class Lack:
    """Bytes that the nearest of some shapes would need, and those that it has, on all of its devices."""

    needed: float
    usable: float


def roomy(table: Timetable, tier: int, groups: Sequence[Group], on: Array) -> list[Group] | Lack:
    """The groups that hold weights and one request under some cut; if none, what the nearest lacks."""
    found, short = [], []
    for group in groups:
        sheet = table.sheet(group, tier)
        needed = float((on @ (sheet.standing.weights + sheet.cache)).min())
        if needed <= sheet.usable:
            found.append(group)
        short.append((needed - sheet.usable, needed * group.devices, sheet.usable * group.devices))
    return found or Lack(*min(short)[1:])


def split_mode(attention: System, forward: System) -> str:
    """How plans of this kind are reported."""
    return f"AFD: attention on {attention.name}, FFN on {forward.name}"
