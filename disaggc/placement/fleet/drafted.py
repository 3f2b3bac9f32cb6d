"""Patterns with a draft model: it puts tokens before the model, which verifies them all in one step.

A step is so many steps of the drafter one after the other, then one of the model over all drafted tokens and
its own. The drafter lies on other machines (an external drafter) or beside the model on the same ones; only
token ids cross. Published for SRAM racks beside GPUs (NVIDIA, 2026-08-24) and as vendors' split of target and
draft. How many tokens a step brings is the tier's (``tokens_per_step``), a property of the two models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from disaggc.cost import Array, Group
from disaggc.placement.fleet.columns import Book, Column, Uses
from disaggc.placement.fleet.demand import Demand
from disaggc.placement.fleet.timetable import Sheet, Timetable, requests_grid
from disaggc.placement.fleet.whole import MICRO_BATCHES, MOST_REQUESTS, decode_bytes
from disaggc.placement.formulation import step_overhead_s
from disaggc.placement.pricing import link_between, occupancy_between

FLYING = np.array(MICRO_BATCHES, dtype=np.float64)


@dataclass(frozen=True)
class Drafters:
    """Shapes of the drafter, stacked: (shape, batch) seconds of all drafted tokens, (shape,) bytes.

    Attributes:
        prompts: Seconds that one prompt keeps a shape busy: a drafter reads prompts, too.
        kept: Bytes of caches, activations and logits on one device for each request of a replica.
    """

    groups: tuple[Group, ...]
    path: Array
    busy: Array
    prompts: Array
    weights: Array
    kept: Array
    usable: Array

    @property
    def replicas(self) -> Array:
        """(shape,): data-parallel replicas."""
        return np.array([float(g.dp) for g in self.groups])


def drafters_of(table: Timetable, tier: int, groups: Sequence[Group], drafted_tokens: int) -> Drafters:
    """The sheets of the drafter's shapes, each drafting so many tokens a step."""
    sheets = [table.sheet(group, tier) for group in groups]
    return Drafters(
        tuple(groups),
        drafted_tokens * np.stack([s.decode.sum(axis=0) for s in sheets]),
        drafted_tokens * np.stack([s.busy.sum(axis=0) for s in sheets]),
        np.array([s.prefill_busy_s for s in sheets]),
        np.array([s.standing.weights.sum() for s in sheets]),
        np.array([s.cache.sum() + s.standing.logits.sum() + s.standing.live for s in sheets]),
        np.array([s.usable for s in sheets]),
    )


class Drafted:
    """One shape of the model with every shape of the drafter; everything is (shape, request, micro-batch).

    Args:
        demand: The tier.
        tier: Its index.
        table: The model's times under drafted loads.
        group: The model's shape.
        drafters: The drafter's shapes; of the same group alone for one beside the model.
        most: The most requests a second whose caches the model's links take in.
    """

    def __init__(
        self, demand: Demand, tier: int, table: Timetable, group: Group, drafters: Drafters, most: float
    ) -> None:
        assert demand.drafted is not None and demand.drafted_limits is not None
        self.tier, self.group, self.drafters, self.most = tier, group, drafters, most
        self.load, self.limits = demand.drafted, demand.drafted_limits
        self.sheet: Sheet = table.sheet(group, tier)
        self.beside = drafters.groups == (group,)
        self.requests = np.array(requests_grid(MOST_REQUESTS // group.dp), dtype=np.float64)
        self.at = np.searchsorted(table.batches, self.requests * group.dp)

    @property
    def mode(self) -> str:
        """As reported."""
        where, drafter = self.group.system.name, self.drafters.groups[0].system.name
        return (
            f"drafter beside the model on {where}"
            if self.beside
            else f"drafter on {drafter}, model on {where}"
        )

    def steps(self) -> Array:
        """Seconds of a step."""
        model = self.sheet.decode.sum(axis=0)[self.at][None, :, None]
        busy = self.sheet.busy.sum(axis=0)[self.at][None, :, None] * FLYING
        drafting = self.drafters.path[:, self.at][:, :, None]
        prompts = self._in_flight() / self.load.steps * self.drafters.prompts[:, None, None]
        drafter = self.drafters.busy[:, self.at][:, :, None] * FLYING + prompts
        path = model + drafting + self._hops()
        together = busy + drafter if self.beside else np.maximum(busy, drafter)
        overhead = step_overhead_s((self.sheet.group, *self.drafters.groups))
        return np.asarray(np.maximum(path, together) + overhead)

    def _hops(self) -> Array:
        """(shape, 1, 1): there and back between drafter and model."""
        if self.beside:
            return np.zeros((1, 1, 1))
        hops = [
            2 * (link_between(self.group, g)[0] + 2 * occupancy_between(self.group, g))
            for g in self.drafters.groups
        ]
        return np.array(hops)[:, None, None]

    def _in_flight(self) -> Array:
        return self.requests[None, :, None] * self.group.dp * FLYING

    def fits(self) -> npt.NDArray[np.bool_]:
        """Whether the model and the drafter fit their memories."""
        model = decode_bytes(self.sheet, self.requests[:, None], FLYING)[None]
        d = self.drafters
        share = np.ceil(self.requests * self.group.dp / d.replicas[:, None])[..., None] * FLYING
        drafter = d.weights[:, None, None] + d.kept[:, None, None] * share
        if self.beside:
            return np.asarray(model + drafter <= self.sheet.usable, dtype=np.bool_)
        fits = np.logical_and(model <= self.sheet.usable, drafter <= d.usable[:, None, None])
        return np.asarray(fits, dtype=np.bool_)

    def offer(self, book: Book) -> None:
        """Add the best with each size of the drafter."""
        tally, fits, step = book.tally(self.tier, self.mode), self.fits(), self.steps()
        tally.considered += fits.size
        tally.fits += int(fits.sum())
        if not fits.any():
            needed = float(decode_bytes(self.sheet, self.requests[:1, None], FLYING[:1]).min())
            tally.lacks(needed * self.group.devices, self.sheet.usable * self.group.devices)
            return
        tally.fastest_token_s = min(tally.fastest_token_s, float(step[fits].min()) / self.load.accepted)
        good = fits & (step <= (self.limits.tpot_s or np.inf))
        rates = np.minimum(np.where(good, self._in_flight() / (step * self.load.steps), 0.0), self.most)
        for k in self._best_of_each_size(rates):
            book.offer(self._column(k, rates[k], step[k]))

    def _best_of_each_size(self, rates: Array) -> Iterator[int]:
        best: dict[int, int] = {}
        for k, group in enumerate(self.drafters.groups):
            known = best.get(group.reserved)
            if rates[k].max() > (0.0 if known is None else rates[known].max()):
                best[group.reserved] = k
        yield from best.values()

    def _column(self, k: int, rates: Array, step: Array) -> Column:
        r, m = np.unravel_index(int(rates.argmax()), rates.shape)
        drafter = self.drafters.groups[k]
        return Column(
            self.tier,
            "decode",
            self.mode,
            self.group.system.name,
            self._uses(drafter),
            float(rates[r, m]),
            (self.group,) if self.beside else (self.group, drafter),
            batch=int(self.requests[r]) * self.group.dp,
            micro_batches=int(FLYING[m]),
            step_s=float(step[r, m]),
            speculative=True,
        )

    def _uses(self, drafter: Group) -> Uses:
        mine = (self.group.system.name, self.group.reserved)
        return (mine,) if self.beside else tuple(sorted((mine, (drafter.system.name, drafter.reserved))))
