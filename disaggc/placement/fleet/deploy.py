"""From chosen columns to deployments: the cut of each solved exactly, with the prefill that feeds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from disaggc.cost import Group
from disaggc.ir import Role
from disaggc.placement.check import evaluate
from disaggc.placement.cut import SolverError, canonical, solve
from disaggc.placement.decide import Decision, Option, bottleneck
from disaggc.placement.fleet.columns import Column
from disaggc.placement.fleet.demand import Demand, Wanted
from disaggc.placement.formulation import PICO, step_overhead_s, write_problem
from disaggc.placement.modes import ANY, FEED_FORWARD, allowed_places
from disaggc.placement.pricing import Limits, Load, Pricing
from disaggc.placement.search import Answer, Configuration, Request

FINE = 1e-6
"""Share of a step that rounding to whole picoseconds may add."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One kind of replica that decodes, with its exact cut.

    Attributes:
        column: What the fleet solve chose.
        prefill: The prefill column that feeds most of it; None where it prefills for itself.
        decision: Its plan.
    """

    column: Column
    prefill: Column | None
    decision: Decision


def deployment(wanted: Wanted, column: Column, prefill: Column | None, candidates: int) -> Deployment:
    """The plan of one replica of a column.

    Every piece of decode may go to either side, but for core attention and feed-forward, which are where the
    column has them; CP-SAT finds the fastest.

    Raises:
        SolverError: The column does not hold up, a fault of ours.
    """
    demand = wanted.tiers[column.tier]
    pricing = _pricing(wanted, demand, column, prefill)
    configuration = Configuration(pricing, column.batch, column.micro_batches, 0.0)
    answer = _solved(configuration, _limits(demand, column), column)
    answer = replace(answer, configuration=replace(configuration, bound=answer.tokens_per_s))
    fleet = tuple({g.system.name: (g.system, g.count) for g in pricing.groups}.values())
    batches, flying = (column.batch,), (column.micro_batches,)
    limits = _times(demand, column)
    request = Request(wanted.pieces, fleet, pricing.load, wanted.formats, limits, batches, flying)
    mode = mode_of(column, prefill)
    option = Option(mode, answer, True, f"limited because {bottleneck(answer)}", 0.0)
    measured = "tokens per second of one replica, over every cut"
    decision = Decision(request, mode, answer, (option,), answer.tokens_per_s, candidates, 1, measured)
    return Deployment(column, prefill, decision)


def _times(demand: Demand, column: Column) -> Limits:
    if column.speculative and demand.drafted_limits is not None:
        return demand.drafted_limits
    return demand.limits


def _limits(demand: Demand, column: Column) -> Limits:
    """No slower than it was priced: an exact cut can only be faster."""
    return Limits(_full_step_s(demand, column) * (1 + FINE), _times(demand, column).ttft_s)


def _full_step_s(demand: Demand, column: Column) -> float:
    """Seconds of a step with all requests in flight at the rate that the column was priced for.

    Where links bring caches for fewer requests than it could decode, that is longer than its own step.
    """
    flying = column.batch * column.micro_batches
    full = flying / (column.requests_per_s * _load(demand, column).steps)
    return full if full > column.step_s * (1 + FINE) else column.step_s


def _load(demand: Demand, column: Column) -> Load:
    return demand.drafted if column.speculative and demand.drafted is not None else demand.load


def _pricing(wanted: Wanted, demand: Demand, column: Column, prefill: Column | None) -> Pricing:
    load = _load(demand, column)
    groups = column.groups[:1] if column.speculative else column.groups
    parts = parts_of(column)[: len(groups)]
    feeders = [1.0] * len(groups)
    streams: list[float] = []
    if prefill is not None:
        groups, parts = (*groups, *prefill.groups), (*parts, "prefill")
        longer = _longer(column, _full_step_s(demand, column))
        feeders.append(column.requests_per_s / prefill.requests_per_s * longer)
        streams = [longer] * (len(groups) - 1) + feeders[-1:]
    joined = len(column.uses) == 1 and len(column.groups) == 2 and not column.speculative
    joined = joined and column.devices <= column.groups[0].system.domain
    return Pricing(
        wanted.pieces,
        groups,
        load,
        wanted.formats,
        _labels(groups, parts),
        tuple(feeders),
        joined,
        tuple(streams),
    )


def _longer(column: Column, step_s: float) -> float:
    """A step with the engine's overhead by one without.

    A problem's rows leave the overhead out; prefill and the links that bring its caches go on during it.
    """
    return step_s / (step_s - step_overhead_s(column.groups))


def parts_of(column: Column) -> tuple[str, ...]:
    """What each of a column's groups does."""
    if column.speculative:
        return ("verifier", "drafter") if len(column.groups) == 2 else ("verifier and drafter",)
    if len(column.groups) == 2:
        return ("attention", "ffn")
    return ("everything" if column.form == "whole" else column.form,)


def _labels(groups: tuple[Group, ...], parts: tuple[str, ...]) -> tuple[str, ...]:
    """A name for each place: its system, with what it does where several are of one system."""
    names = [group.system.name for group in groups]
    return tuple(
        name if names.count(name) == 1 else f"{name}-{part}" for name, part in zip(names, parts, strict=True)
    )


def _solved(configuration: Configuration, limits: Limits, column: Column) -> Answer:
    allowed = tuple(_allowed(configuration.pricing, column))
    problem = write_problem(
        configuration.pricing, configuration.batch, configuration.micro_batches, limits, allowed
    )
    found = solve(problem)
    if found is None:
        raise SolverError(f"'{column.mode}' was priced and has no plan. Please report the job.")
    assignment = canonical(problem, found.objective, found.assignment)
    objective = evaluate(problem, assignment).objective
    return Answer(configuration, assignment, objective, configuration.tokens_per_s(objective))


def _allowed(pricing: Pricing, column: Column) -> Iterator[tuple[int, ...]]:
    """Prefill at its own place, core attention at the first, feed-forward at the last, the rest at either."""
    pieces = pricing.pieces.pieces
    decode = tuple(range(2)) if len(column.groups) == 2 and not column.speculative else (0,)
    prefill = (len(pricing.groups) - 1,)
    possible = allowed_places(pricing, ANY, memory=False)
    for item, piece in enumerate((*pieces, *pieces)):
        options = prefill if item < len(pieces) else decode
        if item >= len(pieces) and piece.role is Role.CORE_ATTENTION:
            options = decode[:1]
        elif item >= len(pieces) and piece.role in FEED_FORWARD:
            options = decode[-1:]
        yield tuple(p for p in options if p in possible[item])


def mode_of(column: Column, prefill: Column | None) -> str:
    """What a replica with its prefill is called."""
    if prefill is None:
        return column.mode
    where = prefill.groups[0].system.name
    if len(column.groups) == 2:
        return f"P/D + {column.mode}, prefill on {where}"
    return f"P/D: prefill on {where}, {column.mode}"


def planned_step_s(deployed: Deployment) -> float:
    """Seconds of a decode step with its exact cut, or as the tier's first token paces it."""
    answer = deployed.decision.answer
    exact = answer.objective / PICO + step_overhead_s(answer.configuration.pricing.groups)
    return max(exact, deployed.column.step_s) if deployed.column.form == "whole" else exact
