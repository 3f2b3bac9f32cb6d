"""Goes through configurations until none can be better than the best one found.

A configuration fixes the pools, their parallelism, the micro-batch and the number of micro-batches;
what is left is an exact assignment of pieces (``cut.solve``). Each configuration has a bound that
needs no solver: every piece at its fastest place, no transfers. Configurations are tried in the order
of their bounds, with the best answer so far as a limit, until the next bound is no better: then the
answer is optimal over all configurations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from disaggc.cost import Array, Formats, Group, in_cache
from disaggc.placement.check import evaluate
from disaggc.placement.cut import canonical, solve
from disaggc.placement.formulation import PICO, step_overhead_s, write_problem
from disaggc.placement.modes import ANY, Mode, allowed_places
from disaggc.placement.pieces import Pieces
from disaggc.placement.pricing import Limits, Load, Pricing
from disaggc.placement.problem import Assignment, Problem
from disaggc.targets import System

BATCHES = tuple(sorted({int(2**e * f) for e in range(15) for f in (1.0, 1.5)}))
"""Micro-batches tried: powers of two and the points half-way between, 1 to 24,576."""
MICRO_BATCHES = (1, 2, 3, 4)
"""From one micro-batch to four (MegaScale-Infer: gains beyond four are marginal)."""
TOLERANCE = 1e-9
SIMPLICITY = 0.005
"""Share of tokens/s that a plan may give up for fewer messages between pools: predictions are no finer."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be placed, where, and how well.

    Attributes:
        fleet: Systems with how many there are of each; each is one place.
        batches, micro_batches: The grid that is searched.
        mode: What the names of the modes that are searched have in common; '' for all.
    """

    pieces: Pieces
    fleet: tuple[tuple[System, int], ...]
    load: Load
    formats: Formats
    limits: Limits
    batches: tuple[int, ...] = BATCHES
    micro_batches: tuple[int, ...] = MICRO_BATCHES
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Places, batch and micro-batches; ``bound`` is a rate that it cannot exceed, in tokens/s."""

    pricing: Pricing
    batch: int
    micro_batches: int
    bound: float

    def problem(self, limits: Limits, mode: Mode, overlapped: bool = False) -> Problem:
        """Its assignment problem."""
        allowed = allowed_places(self.pricing, mode, limits.memory)
        return write_problem(self.pricing, self.batch, self.micro_batches, limits, allowed, overlapped)

    def tokens_per_s(self, objective: int) -> float:
        """Tokens per second at steps of ``objective`` picoseconds plus engine overhead."""
        grown = self.batch * self.micro_batches * self.pricing.load.accepted
        return grown / (objective / PICO + step_overhead_s(self.pricing.groups))


@dataclass(frozen=True, slots=True)
class Answer:
    """A configuration with its best assignment."""

    configuration: Configuration
    assignment: Assignment
    objective: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    Attributes:
        answer: The best plan; None if none is feasible.
        bound: No configuration of the grid does better than this many tokens/s.
        candidates: Configurations of the grid.
        solved: Those that needed the solver.
    """

    answer: Answer | None
    bound: float
    candidates: int
    solved: int


def search(
    request: Request, mode: Mode, start: Answer | None = None, tell: Callable[[str], None] = lambda _: None
) -> Outcome:
    """The plan of most tokens per second among those of ``mode``.

    Args:
        request: What and where.
        mode: Which plans are considered.
        start: A plan known already; only better ones are looked for.
        tell: Told what is being done.
    """
    queue = sorted(_configurations(request, mode), key=lambda c: (-c.bound, c.micro_batches, c.batch))
    best, solved = start, 0
    for k, configuration in enumerate(queue):
        if best is not None and configuration.bound <= best.tokens_per_s * (1 + TOLERANCE):
            break
        tell(f"{mode.name}: configuration {k + 1:,} of {len(queue):,}")
        solved += 1
        best = _improve(request, configuration, mode, best) or best
    if best is None:
        return Outcome(None, 0.0, len(queue), solved)
    return Outcome(_settled(request, mode, best), best.tokens_per_s, len(queue), solved)


def _improve(
    request: Request, configuration: Configuration, mode: Mode, best: Answer | None
) -> Answer | None:
    """A plan of this configuration that beats ``best``, or None."""
    limits = request.limits
    if best is not None:
        grown = configuration.batch * configuration.micro_batches * request.load.accepted
        needed = grown / (best.tokens_per_s * (1 + TOLERANCE))
        limits = replace(limits, tpot_s=min(needed, limits.tpot_s if limits.tpot_s is not None else needed))
    problem = configuration.problem(limits, mode)
    if all(len(places) == 1 for places in problem.allowed):
        only = tuple(places[0] for places in problem.allowed)
        verdict = evaluate(problem, only)
        found = (only, verdict.objective) if verdict.feasible else None
    else:
        solution = solve(problem)
        found = (solution.assignment, solution.objective) if solution is not None else None
    if found is None:
        return None
    return Answer(configuration, *found, configuration.tokens_per_s(found[1]))


def _settled(request: Request, mode: Mode, answer: Answer) -> Answer:
    """The simplest plan of the same configuration that gives up no more than ``SIMPLICITY``."""
    configuration = answer.configuration
    problem = configuration.problem(request.limits, mode)
    ceiling = _ceiling(answer, problem)
    assignment = canonical(problem, ceiling, answer.assignment)
    objective = evaluate(problem, assignment).objective
    return Answer(configuration, assignment, objective, configuration.tokens_per_s(objective))


def _ceiling(answer: Answer, problem: Problem) -> int:
    """T of a plan that gives up ``SIMPLICITY`` and still meets the tier."""
    overhead = step_overhead_s(answer.configuration.pricing.groups) * PICO
    ceiling = int(answer.objective + (answer.objective + overhead) * SIMPLICITY)
    return ceiling if problem.limit is None else min(ceiling, problem.limit)


def fewest_devices(request: Request, mode: Mode, outcome: Outcome) -> Outcome:
    """The same outcome on as few devices as give up no more than ``SIMPLICITY`` of its bound."""
    answer = outcome.answer
    if answer is None:
        return outcome
    mine = answer.configuration.pricing.groups
    systems = [g.system.name for g in mine]
    choices = [g for g in _group_choices(request, mode) if [x.system.name for x in g] == systems]
    fewer = [g for g in choices if _devices(g) < _devices(mine)]
    allowed = _tpot_of(answer, outcome.bound * (1 - SIMPLICITY))
    asked = request.limits.tpot_s
    limits = replace(request.limits, tpot_s=allowed if asked is None else min(allowed, asked))
    for groups in sorted(fewer, key=_devices):
        pricing = Pricing(request.pieces, groups, request.load, request.formats)
        smaller = replace(answer.configuration, pricing=pricing)
        found = _improve(replace(request, limits=limits), smaller, mode, None)
        if found is not None:
            return replace(outcome, answer=_settled(replace(request, limits=limits), mode, found))
    return outcome


def _devices(groups: tuple[Group, ...]) -> int:
    return sum(group.devices for group in groups)


def _tpot_of(answer: Answer, tokens_per_s: float) -> float:
    """Seconds per step at which an answer's requests come to a rate."""
    configuration = answer.configuration
    accepted = configuration.pricing.load.accepted
    return configuration.batch * configuration.micro_batches * accepted / tokens_per_s


def price(answer: Answer, overlapped: bool) -> dict[str, int]:
    """Every row of an answer by the checker, conservative or overlapped: picoseconds and kilobytes."""
    problem = answer.configuration.problem(Limits(None, None), ANY, overlapped)
    return evaluate(problem, answer.assignment).rows


def _configurations(request: Request, mode: Mode) -> Iterator[Configuration]:
    """Every configuration whose bound meets the tier and whose pieces fit somewhere."""
    batches = np.asarray(request.batches, dtype=np.float64)
    for groups in _group_choices(request, mode):
        pricing = Pricing(request.pieces, groups, request.load, request.formats)
        floor = Floor(pricing, allowed_places(pricing, mode, request.limits.memory), batches)
        for m in request.micro_batches:
            tpot = floor.tpot(m, request.limits.memory)
            for k, batch in enumerate(request.batches):
                limit = request.limits.tpot_s if request.limits.tpot_s is not None else np.inf
                grown = batch * m * request.load.accepted
                if tpot[k] <= limit and np.isfinite(tpot[k]):
                    yield Configuration(pricing, batch, m, float(grown / tpot[k]))


class Floor:
    """Times that no assignment of a pricing goes below, without a solver.

    TPOT is at least any weighted mean of the path and of every place's busy time, and a sum over
    pieces is least when each piece is where the mean is least (Lagrangian bound of the assignment;
    transfers are left out, which only lowers it). The best of a few weights is taken.

    Args:
        pricing: Pieces and groups.
        allowed: Places of each item.
        batches: The batches to bound.
    """

    def __init__(self, pricing: Pricing, allowed: tuple[tuple[int, ...], ...], batches: Array) -> None:
        self.pricing = pricing
        self.batches = batches
        pieces, places = pricing.pieces.pieces, len(pricing.groups)
        closed: Array = np.full((2 * len(pieces), places), np.inf)
        for item, options in enumerate(allowed):
            closed[item, list(options)] = 0.0
        shares = np.array([[pricing.pipeline_share(p, g) for g in range(places)] for p in pieces])
        self.path: Array = pricing.decode_grid(batches) + closed[len(pieces) :, :, None]
        self.busy: Array = self.path * shares[:, :, None]
        self.prompt: Array = pricing.prefill_busy / pricing.load.steps + closed[: len(pieces)]
        self.weights = _weights(places)

    def tpot(self, micro_batches: int, memory: bool) -> Array:
        """Seconds per step over batches, infinite where caches fit nowhere."""
        path, busy = self.path, self.busy * micro_batches
        if memory:
            path = path + self._closed_by_caches(micro_batches)
        on_path, on_place = self.weights[:, 0], self.weights[:, 1:]
        decode = on_path[:, None, None, None] * path + on_place[:, None, :, None] * busy
        prompts = self.prompt[:, :, None] * self.batches * micro_batches
        prefill = on_place[:, None, :, None] * prompts
        least: Array = np.nanmin(decode, axis=2).sum(axis=1) + np.nanmin(prefill, axis=2).sum(axis=1)
        slowest: Array = least.max(axis=0)
        return slowest + step_overhead_s(self.pricing.groups)

    def _closed_by_caches(self, micro_batches: int) -> Array:
        """Infinite for a piece at a place where its own weights and caches do not fit."""
        closed: Array = np.zeros_like(self.path)
        for i, piece in enumerate(self.pricing.pieces.pieces):
            if piece.has_state:
                for place in range(len(self.pricing.groups)):
                    needed = self.pricing.cache_bytes(piece, place, self.batches, micro_batches)
                    needed = needed + self.pricing.weight_bytes(piece, place)
                    closed[i, place] = np.where(needed > self.pricing.usable_bytes(place), np.inf, 0.0)
        return closed


def _weights(places: int) -> Array:
    """Weights of the path and of each place, rows that sum to 1 and stay above 0.

    Strictly positive, so that a piece that may not go to a place (infinite) never counts as free there.
    """
    paths = (0.02, 0.25, 0.5, 0.75, 0.96)
    if places == 1:
        return np.array([[on_path, 1 - on_path] for on_path in paths])
    splits = (0.04, 0.2, 0.35, 0.5, 0.65, 0.8, 0.96)
    return np.array([[w, (1 - w) * split, (1 - w) * (1 - split)] for w in paths for split in splits])


def _group_choices(request: Request, mode: Mode) -> Iterator[tuple[Group, ...]]:
    """Parallelism of every place, for each single system and pair of systems of the fleet."""
    names = range(len(request.fleet))
    for size in mode.pools:
        for chosen in itertools.combinations(names, size):
            fleet = [request.fleet[i] for i in chosen]
            if mode.admits([system.name for system, _ in fleet]):
                yield from itertools.product(*(_groups(request, s, n) for s, n in fleet))


def _groups(request: Request, system: System, count: int) -> list[Group]:
    """The ways to use a system, each marked if all weights fit the caches of its devices."""
    resident = request.pieces.resident_bytes(request.formats)
    return [in_cache(group, resident) for group in groups_of(system, count, request.pieces.layers)]


def groups_of(system: System, count: int, layers: int) -> list[Group]:
    """The ways to use all devices of ``count`` systems of one kind.

    Parts with HBM run data-parallel replicas of tensor-parallel groups, experts spread over all; SRAM
    parts hold one copy, as a pipeline of tensor-parallel groups. Tensor parallelism stays within a
    scale-up domain.
    """
    devices = system.devices * count
    degrees = [2**e for e in range(12) if 2**e <= min(devices, system.domain)]
    if system.device.kind in ("sram", "wafer"):
        full = {d for d in (*degrees, min(devices, system.domain)) if d >= 1}
        return [Group(system, count, tp, 1, max(1, min(devices // tp, layers))) for tp in sorted(full)]
    return [Group(system, count, tp, max(1, devices // tp), 1) for tp in degrees]
