"""How far each mode can trade speed for tokens per megawatt, around its best plan.

The cut of a mode's best plan is kept; batch, micro-batches and the parallelism of one pool at a time
vary. Bounds (``search.Floor``) pick the candidates, the checker prices them, and what is beaten in both
speed and tokens per megawatt is left out. So the points are plans, but no proof that none is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from disaggc.placement.check import evaluate
from disaggc.placement.decide import Decision, tpot_seconds
from disaggc.placement.formulation import write_problem
from disaggc.placement.modes import ANY, allowed_places
from disaggc.placement.pricing import Limits, Pricing
from disaggc.placement.search import Answer, Configuration, Floor, Request, groups_of
from disaggc.plans import FrontierPoint

POINTS = 12
"""Speeds at which a plan is looked for, for each mode."""
TRIES = 3
"""Candidates that are priced for each, until one fits its memory."""
SLOWEST = 0.25
"""The lowest speed that is looked at, as a share of what the tier asks."""


def frontier(decision: Decision) -> tuple[FrontierPoint, ...]:
    """A few plans of each mode that has one, the slowest and most efficient first.

    None for a replica of a fleet, whose size and batch were chosen with all the others.
    """
    if decision.answer.configuration.pricing.labels:
        return ()
    found: list[FrontierPoint] = []
    for option in decision.options:
        if option.answer is not None:
            around = _around(decision.request, option.answer)
            points = [_point(option.mode, answer) for answer in (option.answer, *around)]
            found += _unbeaten(points)
    return tuple(found)


def answer_per_mw(answer: Answer) -> float:
    """Tokens per second over the power of the systems that a plan uses, tokens/s/MW."""
    groups = answer.configuration.pricing.groups
    used = {groups[place] for place in answer.assignment}
    return answer.tokens_per_s / (sum(g.system.power.si * g.systems for g in used) / 1e6)


def _point(mode: str, answer: Answer) -> FrontierPoint:
    return FrontierPoint(
        mode,
        1 / tpot_seconds(answer),
        answer_per_mw(answer),
        answer.tokens_per_s,
        answer.configuration.batch,
        answer.configuration.micro_batches,
    )


def _unbeaten(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """Those that no other one beats in both, from the slowest on."""
    kept: list[FrontierPoint] = []
    best = -math.inf
    for point in sorted(points, key=lambda p: (-p.tokens_per_s_per_user, -p.tokens_per_s_per_mw)):
        if point.tokens_per_s_per_mw > best:
            kept.append(point)
            best = point.tokens_per_s_per_mw
    return kept[::-1]


def _around(request: Request, answer: Answer) -> Iterator[Answer]:
    """The same cut in other configurations: the one of most tokens at each of some speeds."""
    bounded = [c for groups in _choices(request, answer) for c in _bounded(request, answer, groups)]
    if not bounded:
        return
    speeds = np.array([speed for speed, _ in bounded])
    slowest = SLOWEST / request.limits.tpot_s if request.limits.tpot_s else float(speeds.min())
    tried: set[int] = set()
    for speed in np.geomspace(min(slowest, speeds.max()), speeds.max(), POINTS):
        fast = [i for i in np.flatnonzero(speeds >= speed) if int(i) not in tried]
        for i in sorted(fast, key=lambda i: (-_rounded(bounded[i][1].bound), i))[:TRIES]:
            tried.add(int(i))
            found = _priced(bounded[i][1], answer)
            if found is not None:
                yield found
                break


def _rounded(rate: float) -> float:
    """Nine digits, so that a tie is a tie on every machine."""
    return float(f"{rate:.9g}")


def _choices(request: Request, answer: Answer) -> Iterator[Pricing]:
    """The answer's groups with other degrees of parallelism at one place at a time."""
    pricing = answer.configuration.pricing
    yield pricing
    for place in sorted(set(answer.assignment)):
        group = pricing.groups[place]
        for other in groups_of(group.system, group.count, request.pieces.layers):
            if other != group:
                groups = (*pricing.groups[:place], other, *pricing.groups[place + 1 :])
                yield replace(pricing, groups=groups)


def _bounded(request: Request, answer: Answer, pricing: Pricing) -> Iterator[tuple[float, Configuration]]:
    """Configurations of one choice of groups with the speed (tokens/s/user) that they cannot exceed."""
    fixed = tuple((place,) for place in answer.assignment)
    floor = Floor(pricing, fixed, np.asarray(request.batches, dtype=np.float64))
    for m in request.micro_batches:
        for batch, step in zip(request.batches, floor.tpot(m, request.limits.memory), strict=True):
            if np.isfinite(step):
                rate = batch * m * request.load.accepted / step
                yield request.load.accepted / step, Configuration(pricing, batch, m, float(rate))


def _priced(configuration: Configuration, answer: Answer) -> Answer | None:
    """The answer's cut in another configuration, by the checker; None where it does not fit."""
    pricing = configuration.pricing
    problem = write_problem(
        pricing,
        configuration.batch,
        configuration.micro_batches,
        Limits(None, None),
        allowed_places(pricing, ANY, memory=False),
    )
    verdict = evaluate(problem, answer.assignment)
    if not verdict.feasible:
        return None
    rate = configuration.tokens_per_s(verdict.objective)
    return replace(answer, configuration=configuration, objective=verdict.objective, tokens_per_s=rate)
