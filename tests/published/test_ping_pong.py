"""MegaScale-Infer's rule of ping-pong, m >= 2 (1 + Tc / Tf), is in our rows (arXiv 2504.02263, eq. 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from made import ANY, FP8, decoder, rack, with_slower_link

from disaggc.cost import Group
from disaggc.ir import Role
from disaggc.placement.check import evaluate
from disaggc.placement.pricing import Limits, Load, Pricing
from disaggc.placement.search import Configuration

LOAD = Load(1, 2_000, 100_000, 110_000)
"""Prompts so short and answers so long that decode is all there is."""


def _pricings() -> Iterator[Pricing]:
    """Attention on one machine, feed-forward on another, over links from fast to slow."""
    for slower in (1, 4, 20):
        h20, l40s = (with_slower_link(rack(name, 4), slower) for name in ("h20-x8", "l40s-x8"))
        yield Pricing(decoder(other=1_000_000), (Group(h20, 1, 1, 4, 1), Group(l40s, 1, 4, 1, 1)), LOAD, FP8)


def _apart(pricing: Pricing) -> tuple[int, ...]:
    decode = [int(piece.role is Role.FFN) for piece in pricing.pieces.pieces]
    return (*([0] * len(decode)), *decode)


@pytest.mark.parametrize("batch", [8, 256])
@pytest.mark.parametrize("pricing", list(_pricings()), ids=["fast", "slower", "slow"])
def test_as_many_micro_batches_as_the_rule_asks_for_hide_the_way(pricing: Pricing, batch: int) -> None:
    """With as many no pool waits, with one fewer somebody does: the path through a step sets the pace."""
    sides = _apart(pricing)
    seconds = pricing.decode_grid(np.asarray([float(batch)]))[:, :, 0]
    half = len(pricing.pieces.pieces)
    times = [sum(seconds[i, p] for i in range(half) if sides[half + i] == p) for p in (0, 1)]
    alone = Configuration(pricing, batch, 1, 0.0).problem(Limits(None, None, memory=False), ANY, True)
    crossing = evaluate(alone, sides).rows["path"] / 1e12 - sum(times)
    needed = math.ceil((sum(times) + crossing) / max(times) - 1e-9)

    def pace(m: int) -> str:
        problem = Configuration(pricing, batch, m, 0.0).problem(Limits(None, None, memory=False), ANY, True)
        rows = evaluate(problem, sides).rows
        return "path" if rows["path"] > max(rows["busy.0"], rows["busy.1"]) * (1 + 1e-6) else "pool"

    assert pace(needed) == "pool"
    assert needed == 1 or pace(needed - 1) == "path"
