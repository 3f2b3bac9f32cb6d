"""The best mix for an objective, proven; then as simple as half a per cent allows, or near a present one.

Ratios (tokens per megawatt, dollars per token) are maximised by Dinkelbach's method: the best mix for
numerator - ratio * denominator, the ratio taken from the mix before, until nothing is gained; each step is
proven, and so is the end (Dinkelbach, Management Science 13 (1967), theorem 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from disaggc.errors import TargetError
from disaggc.placement.cut import SolverError
from disaggc.placement.fleet.audit import Audit, Mix, audit
from disaggc.placement.fleet.demand import Demand, Fleet
from disaggc.placement.fleet.master import Market, Master, Worth
from disaggc.placement.search import SIMPLICITY

ROUNDS = 60
"""Steps of Dinkelbach's method; it ends after three to six."""
NEAR = 1e-7
"""Share by which a ratio must grow for another step: what the solver's own tolerances leave of it."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What the best mix is best at: gained / spent, or gained alone.

    Attributes:
        name: As in a job.
        unit: Of its values.
        gained: What counts for a mix.
        spent: What it is divided by; None for nothing.
        sign: -1 if the reported value is the ratio turned over, of which less is better.
    """

    name: str
    unit: str
    gained: Worth
    spent: Worth | None = None
    sign: int = 1

    def value(self, found: Audit, mix: Mix) -> float:
        """In its unit."""
        gained = _sum(self.gained, found, mix)
        if self.spent is None:
            return self.sign * gained
        spent = _sum(self.spent, found, mix)
        top, bottom = (gained, spent) if self.sign > 0 else (spent, gained)
        return top / bottom if bottom else float("inf")


def _sum(worth: Worth, found: Audit, mix: Mix) -> float:
    served = sum(a * v for a, v in zip(worth.per_request, found.served, strict=False))
    return served + sum(a * n for a, n in zip(worth.per_system, mix.systems, strict=False))


def objective_of(name: str, tiers: Sequence[Demand], fleet: Fleet, second: bool = False) -> Objective:
    """The objective that a job names: revenue, profit, throughput, tokens_per_mw or cost.

    Cost is dollars an hour where what is served is given, by demand or by a first objective, else dollars
    per million tokens.

    Raises:
        TargetError: 'cost' or 'profit' is asked for and nobody says what a system costs.
    """
    tokens = Worth(tuple(float(t.tokens_per_request) for t in tiers))
    if name == "revenue":
        return Objective(name, "USD/h", Worth(tuple(t.usd_per_request * 3600 for t in tiers)))
    if name == "throughput":
        return Objective(name, "tokens/s", tokens)
    if name == "tokens_per_mw":
        return Objective(name, "tokens/s/MW", tokens, Worth((), tuple(s.power.si / 1e6 for s, _ in fleet)))
    prices = tuple(_usd_per_h(s.name, s.usd_per_h.si if s.usd_per_h else None) for s, _ in fleet)
    if name == "profit":
        sold = Worth(tuple(t.usd_per_request * 3600 for t in tiers), tuple(-p for p in prices))
        return Objective(name, "USD/h", sold)
    if second or all(t.requests_per_s is not None and t.least_share == 1 for t in tiers):
        return Objective(name, "USD/h", Worth((), tuple(-p for p in prices)), None, -1)
    mtok_per_h = Worth(tuple(t.tokens_per_request * 3600 / 1e6 for t in tiers))
    return Objective(name, "USD/Mtok", mtok_per_h, Worth((), prices), -1)


def _usd_per_h(name: str, price: float | None) -> float:
    if price is None:
        raise TargetError(
            f"No price an hour is declared for '{name}', so neither cost nor profit is known. "
            f"Add usd_per_h in targets/systems, or choose another objective."
        )
    return price


@dataclass(frozen=True, slots=True)
class Choice:
    """A mix and its proof.

    Attributes:
        value: The objective, by the audit.
        bound: What no mix of the market does better than, in the same unit.
        gap: The share of the bound that the mix gives up.
        solves: Integer programs that it took.
        tolerance: The share of the objective that could be given up for a simpler mix, or a present one.
    """

    mix: Mix
    audit: Audit
    value: float
    bound: float
    gap: float
    solves: int
    tolerance: float


def choose(
    market: Market,
    objective: Objective,
    then: Objective | None = None,
    present: Mapping[int, int] | None = None,
    tolerance: float = SIMPLICITY,
) -> Choice | None:
    """The best mix of a market; None if nothing that must be served can be.

    Among mixes that give up no more than ``tolerance`` of the objective, the one nearest to ``present``
    (replicas by column) if there is one, else the one of fewest replicas and systems.

    Args:
        market: What is chosen among.
        objective: What counts first.
        then: What counts among the best of that.
        present: What runs now.
        tolerance: The share of the objective that may be given up for that.
    """
    master = Master(market)
    top, solves = _best(master, market, objective)
    if top is None:
        return None
    goals = [(objective, top)]
    if then is not None:
        master.hold(*_linear(objective, top, 0.0))
        second, more = _best(master, market, then)
        solves += more
        if second is not None:
            goals.append((then, second))
    master = Master(market)
    for goal, best in goals:
        master.hold(*_linear(goal, best, tolerance))
        if goal.spent is not None:
            master.run_some()
    settled = master.nearest(present) if present is not None else master.simplest()
    mix = settled.mix if settled is not None else goals[-1][1].mix
    return _choice(market, objective, top, mix, solves + 1, tolerance)


@dataclass(frozen=True, slots=True)
class Top:
    """The best value of an objective, as a linear expression that it is the zero of.

    Attributes:
        ratio: gained / spent at the optimum; 0 without a denominator.
        bound: Upper bound of gained (of the ratio, with a denominator).
    """

    mix: Mix
    value: float
    ratio: float
    bound: float


def _best(master: Master, market: Market, objective: Objective) -> tuple[Top | None, int]:
    if objective.spent is None:
        found = master.best(objective.gained)
        return (None if found is None else Top(found.mix, found.value, 0.0, found.bound)), 1
    master.run_some()
    ratio = 0.0
    for k in range(1, ROUNDS + 1):
        found = master.best(_priced(objective, ratio))
        if found is None:
            return None, k
        result = audit(market.columns, market.tiers, market.fleet, market.budget, found.mix)
        gained, spent = (_sum(w, result, found.mix) for w in (objective.gained, objective.spent))
        better = gained / spent if spent > 0 else 0.0
        if better <= ratio * (1 + NEAR):
            return Top(found.mix, ratio, ratio, ratio * (1 + NEAR)), k
        ratio = better
    raise SolverError("Dinkelbach's method did not end. Please report the job.")


def _priced(objective: Objective, ratio: float) -> Worth:
    assert objective.spent is not None
    return replace(objective.gained, per_system=tuple(-ratio * s for s in objective.spent.per_system))


def _linear(objective: Objective, top: Top, tolerance: float) -> tuple[Worth, float]:
    """The objective at its best but for a tolerance, as a linear expression and its least value."""
    if objective.spent is None:
        return objective.gained, top.value - abs(top.value) * tolerance
    return _priced(objective, top.ratio * (1 - tolerance)), 0.0


def _choice(
    market: Market, objective: Objective, top: Top, mix: Mix, solves: int, tolerance: float
) -> Choice:
    """The mix with its proof, by the audit.

    Raises:
        SolverError: The audit finds a limit broken.
    """
    found = audit(market.columns, market.tiers, market.fleet, market.budget, mix)
    if found.broken:
        raise SolverError(f"The fleet's solver breaks a limit: {found.broken[0]}. Please report the job.")
    value = objective.value(found, mix)
    bound = top.bound
    if objective.spent is not None and objective.sign < 0:
        bound = 1 / bound if bound else float("inf")
    elif objective.sign < 0:
        bound = -bound
    gap = (
        max(0.0, objective.sign * (bound - value) / abs(bound))
        if bound and abs(bound) != float("inf")
        else 0.0
    )
    return Choice(mix, found, value, bound, gap, solves, tolerance)
