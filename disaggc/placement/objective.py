"""What the best plan is best at, where that hangs on how much of a fleet is used at all.

Tokens per megawatt and dollars per token fall when a system is left out. Every part of the fleet (so
many of each system, in whole systems) is searched for its most tokens per second, which is best for that
part whatever the objective, and the best part is taken: exact, like each search.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from disaggc.errors import TargetError
from disaggc.placement.modes import ANY
from disaggc.placement.search import Request, search
from disaggc.targets import System

Fleet = tuple[tuple[System, int], ...]
THROUGHPUT = "throughput"


@dataclass(frozen=True, slots=True)
class SubFleet:
    """A part of a fleet, and what it comes to.

    Attributes:
        fleet: Systems, with how many of each.
        tokens_per_s: The most that it gives; None if no plan on it meets the tier.
        value: The objective in its unit; None likewise.
        score: The same so that more is better; minus infinity likewise.
    """

    fleet: Fleet
    tokens_per_s: float | None
    value: float | None
    score: float

    @property
    def name(self) -> str:
        """'1 vr-nvl72 + 2 groq3-lpx'."""
        return " + ".join(f"{count} {system.name}" for system, count in self.fleet)


@dataclass(frozen=True, slots=True)
class Measure:
    """An objective.

    Attributes:
        unit: Of its values, for people.
        of: Tokens per second and fleet to value.
        sign: 1 if more is better, -1 if less is.
    """

    unit: str
    of: Callable[[float, Fleet], float]
    sign: int


def megawatts(fleet: Fleet) -> float:
    """Power of whole systems."""
    return sum(system.power.si * count for system, count in fleet) / 1e6


def usd_per_h(fleet: Fleet) -> float:
    """What whole systems cost to own and run.

    Raises:
        TargetError: Nobody says what one of them costs.
    """
    total = 0.0
    for system, count in fleet:
        if system.usd_per_h is None:
            raise TargetError(
                f"No price an hour is declared for '{system.name}', so 'cost' cannot be minimised. "
                f"Add usd_per_h in targets/systems, or choose another objective."
            )
        total += system.usd_per_h.si * count
    return total


MEASURES = {
    "tokens_per_mw": Measure("tokens/s/MW", lambda rate, fleet: rate / megawatts(fleet), 1),
    "cost": Measure("USD/Mtok", lambda rate, fleet: usd_per_h(fleet) / (rate * 3600) * 1e6, -1),
}


def choose_fleet(
    request: Request, objective: str, tell: Callable[[str], None] = lambda _: None
) -> tuple[Request, tuple[SubFleet, ...]]:
    """The request on the part of its fleet that is best at ``objective``, and every part, the best first.

    Throughput is never harmed by a system more, so its request stays as it is. So does one that no part
    can serve: deciding it says why.
    """
    if objective == THROUGHPUT:
        return request, ()
    measure = MEASURES[objective]
    tried = []
    for fleet in _subfleets(request.fleet):
        tell(f"{objective}: {' + '.join(f'{n} {system.name}' for system, n in fleet)}")
        found = search(replace(request, fleet=fleet), ANY)
        tried.append(_scored(fleet, found.bound if found.answer is not None else None, measure))
    ranked = sorted(tried, key=lambda part: (part.value is None, -part.score, megawatts(part.fleet)))
    if ranked[0].value is None:
        return request, ()
    return replace(request, fleet=ranked[0].fleet), tuple(ranked)


def _subfleets(fleet: Fleet) -> Iterator[Fleet]:
    """Every choice of how many of each system are used, none at all left out."""
    for counts in itertools.product(*(range(count + 1) for _, count in fleet)):
        part = tuple((system, n) for (system, _), n in zip(fleet, counts, strict=True) if n)
        if part:
            yield part


def _scored(fleet: Fleet, rate: float | None, measure: Measure) -> SubFleet:
    if rate is None:
        return SubFleet(fleet, None, None, -math.inf)
    value = measure.of(rate, fleet)
    return SubFleet(fleet, rate, value, measure.sign * value)
