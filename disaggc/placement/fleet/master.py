"""Chooses how many replicas of which columns a fleet runs: an integer program, solved to its proven bound.

    maximise   sum of what served requests are worth
    subject    served requests of a tier <= its demand, >= the share that must be served
               decoded at a home <= what decode columns there can, and <= what prefill columns for it can
               replicas of a size and above <= the slots of that size, for each size of each system
               systems used <= inventory; their power and cost <= budget

The only module of the fleet that knows a solver. ``audit`` judges its answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ortools.math_opt.python import mathopt

from disaggc.placement.cut import SolverError
from disaggc.placement.fleet.audit import Mix
from disaggc.placement.fleet.columns import Column
from disaggc.placement.fleet.demand import Budget, Demand, Fleet
from disaggc.placement.fleet.shapes import slots

TIME_LIMIT = timedelta(minutes=5)
PROVEN = 1e-9
"""Relative gap of a proven optimum: what rounding leaves."""
NEARLY = 0.02
"""Relative gap that is good enough where nothing is claimed of an optimum: how simple a mix is."""
SYSTEMS_FIRST = 10
"""Branching on how many systems are used first, and no cuts: four times faster on mixed fleets."""
SOLVER = mathopt.SolverType.GSCIP
HELD = 1e-7
"""Share that an objective may lose to rounding when it is held while another one is improved."""


@dataclass(frozen=True, slots=True)
class Worth:
    """A linear objective, more is better.

    Attributes:
        per_request: Of one request a second served, by tier.
        per_system: Of one system used, by fleet index.
        per_replica: Of one replica of any column.
    """

    per_request: tuple[float, ...] = ()
    per_system: tuple[float, ...] = ()
    per_replica: float = 0.0


@dataclass(frozen=True, slots=True)
class Optimum:
    """A proven answer: no mix is worth more than ``bound``."""

    mix: Mix
    value: float
    bound: float


@dataclass(frozen=True)
class Market:
    """What is chosen among.

    Attributes:
        columns: Replicas to choose from.
        tiers: Who wants what.
        fleet: How many systems there are.
        budget: What they may take.
        fixed: Replicas of some columns, by index, that are given.
    """

    columns: tuple[Column, ...]
    tiers: tuple[Demand, ...]
    fleet: Fleet
    budget: Budget = field(default_factory=Budget)
    fixed: Mapping[int, int] = field(default_factory=dict)


class Master:
    """The integer program of one market.

    Args:
        market: What is chosen among.
    """

    def __init__(self, market: Market) -> None:
        self.market = market
        self.model = mathopt.Model(name="fleet")
        self.replicas = [self._replicas(c) for c in market.columns]
        self.systems = [
            self.model.add_integer_variable(lb=0, ub=count, name=f"systems.{s.name}")
            for s, count in market.fleet
        ]
        self.served = [self._served(k, tier) for k, tier in enumerate(market.tiers)]
        self._fit()
        self._afford()
        for k, n in market.fixed.items():
            self.model.add_linear_constraint(self.replicas[k] == n)

    def _replicas(self, column: Column) -> Any:
        counts = {s.name: s.devices * n for s, n in self.market.fleet}
        most = min(counts[name] // devices for name, devices in column.uses)
        return self.model.add_integer_variable(lb=0, ub=most)

    def _served(self, tier: int, demand: Demand) -> Any:
        """Requests a second of a tier: those of whole columns, and of each home's decode and prefill."""
        most = math.inf if demand.requests_per_s is None else demand.requests_per_s
        served = self.model.add_variable(lb=demand.least_requests_per_s, ub=most, name=f"served.{tier}")
        homes = sorted({c.home for c in self.market.columns if c.tier == tier and c.form != "whole"})
        streams = [self.model.add_variable(lb=0, name=f"stream.{tier}.{home}") for home in homes]
        for home, stream in zip(homes, streams, strict=True):
            for form in ("decode", "prefill"):
                made = self._rate(c for c in self._indices() if self._is(c, tier, form, home))
                self.model.add_linear_constraint(stream - made <= 0)
        whole = self._rate(c for c in self._indices() if self._is(c, tier, "whole", ""))
        self.model.add_linear_constraint(served - mathopt.fast_sum(streams) - whole <= 0)
        return served

    def _indices(self) -> range:
        return range(len(self.market.columns))

    def _is(self, index: int, tier: int, form: str, home: str) -> bool:
        column = self.market.columns[index]
        return (column.tier, column.form) == (tier, form) and home in ("", column.home)

    def _rate(self, indices: Iterable[int]) -> Any:
        columns = self.market.columns
        return mathopt.fast_sum(columns[k].requests_per_s * self.replicas[k] for k in indices)

    def _fit(self) -> None:
        """Nested sizes fit exactly if, for each, replicas of it and above take no more than its slots."""
        for (system, _), used in zip(self.market.fleet, self.systems, strict=True):
            sizes = [
                (dict(c.uses)[system.name], k)
                for k, c in enumerate(self.market.columns)
                if system.name in dict(c.uses)
            ]
            for least in sorted({size for size, _ in sizes}):
                taken = mathopt.fast_sum(size * self.replicas[k] for size, k in sizes if size >= least)
                self.model.add_linear_constraint(taken - slots(system, 1, least) * used <= 0)

    def _afford(self) -> None:
        budget = self.market.budget
        watts = [s.power.si for s, _ in self.market.fleet]
        usd = [s.usd_per_h.si if s.usd_per_h is not None else 0.0 for s, _ in self.market.fleet]
        for limit, each in ((budget.power_w, watts), (budget.usd_per_h, usd)):
            if limit is not None:
                spent = mathopt.fast_sum(a * v for a, v in zip(each, self.systems, strict=True))
                self.model.add_linear_constraint(spent <= limit)

    def expression(self, worth: Worth) -> Any:
        """An objective over this model's variables."""
        terms = [a * v for a, v in zip(worth.per_request, self.served, strict=False) if a]
        terms += [a * v for a, v in zip(worth.per_system, self.systems, strict=False) if a]
        if worth.per_replica:
            terms += [worth.per_replica * v for v in self.replicas]
        return mathopt.fast_sum(terms)

    def hold(self, worth: Worth, at_least: float) -> None:
        """Keep an objective at a value while another is improved."""
        self.model.add_linear_constraint(self.expression(worth) >= at_least - abs(at_least) * HELD)

    def simplest(self) -> Optimum | None:
        """The mix of fewest replicas and systems."""
        return self._solved(self.expression(Worth((), (-1.0,) * len(self.systems), -1.0)), NEARLY)

    def nearest(self, present: Mapping[int, int]) -> Optimum | None:
        """The mix that moves the fewest devices from what runs now, replicas by column."""
        moved = []
        for k, column in enumerate(self.market.columns):
            away = self.model.add_variable(lb=0)
            self.model.add_linear_constraint(self.replicas[k] - away <= present.get(k, 0))
            self.model.add_linear_constraint(self.replicas[k] + away >= present.get(k, 0))
            moved.append(column.devices * away)
        return self._solved(-mathopt.fast_sum(moved), NEARLY)

    def run_some(self) -> None:
        """Have at least one replica run: nothing at all has no ratio."""
        self.model.add_linear_constraint(mathopt.fast_sum(self.replicas) >= 1)

    def best(self, worth: Worth, gap: float = PROVEN) -> Optimum | None:
        """The mix that is worth most, but for a relative gap; None if none is feasible.

        Raises:
            SolverError: The solver gave up.
        """
        return self._solved(self.expression(worth), gap)

    def _solved(self, expression: Any, gap: float) -> Optimum | None:
        self.model.maximize(expression)
        parameters = mathopt.SolveParameters(
            time_limit=TIME_LIMIT,
            relative_gap_tolerance=gap,
            absolute_gap_tolerance=PROVEN,
            cuts=mathopt.Emphasis.OFF,
            random_seed=1,
            threads=1,
        )
        order = mathopt.ModelSolveParameters(branching_priorities=dict.fromkeys(self.systems, SYSTEMS_FIRST))
        result = mathopt.solve(self.model, SOLVER, params=parameters, model_params=order)
        reason = result.termination.reason
        if reason in (
            mathopt.TerminationReason.INFEASIBLE,
            mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED,
        ):
            return None
        if reason is not mathopt.TerminationReason.OPTIMAL:
            raise SolverError(f"The fleet's solver ended with {reason.name}. Please report the job.")
        values = result.variable_values()
        mix = Mix(
            tuple(round(values[v]) for v in self.replicas),
            tuple(round(values[v]) for v in self.systems),
        )
        return Optimum(mix, result.objective_value(), result.best_objective_bound())
