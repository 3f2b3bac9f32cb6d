"""What each role would cost on another pool, everything else as planned: why it is where it is."""

from __future__ import annotations

from collections.abc import Iterator

from disaggc.ir import Phase, Role
from disaggc.placement.check import Verdict, evaluate
from disaggc.placement.decide import Decision, bottleneck, tpot_seconds
from disaggc.placement.formulation import KILO, PICO, step_overhead_s, write_problem
from disaggc.placement.modes import ANY, allowed_places, serving_format
from disaggc.placement.pricing import Limits
from disaggc.placement.problem import Assignment, Problem
from disaggc.placement.search import Answer
from disaggc.plans import Move

US = 1e6
MS = 1e3


def moves(decision: Decision) -> tuple[Move, ...]:
    """Each role of each phase at each other place of the plan's configuration, priced by the checker."""
    if len(decision.answer.configuration.pricing.groups) < 2:
        return ()
    problem = _problem(decision)
    names = decision.answer.configuration.pricing.names
    found = []
    for phase, role, items in _roles(decision):
        here = sorted({decision.answer.assignment[item] for item in items})
        for target in range(len(names)):
            if here != [target]:
                moved = _moved(decision.answer.assignment, items, target)
                source = " and ".join(names[place] for place in here if place != target)
                found.append(_priced(decision, problem, moved, (phase, role, source, names[target])))
    return tuple(found)


def _problem(decision: Decision) -> Problem:
    """The plan's own, without a limit on T, and with whatever a device's formats allow."""
    configuration = decision.answer.configuration
    allowed = allowed_places(configuration.pricing, ANY, memory=False)
    limits = Limits(None, decision.request.limits.ttft_s)
    return write_problem(
        configuration.pricing, configuration.batch, configuration.micro_batches, limits, allowed
    )


def _roles(decision: Decision) -> Iterator[tuple[Phase, Role, list[int]]]:
    pieces = decision.request.pieces.pieces
    for phase, offset in ((Phase.PREFILL, 0), (Phase.DECODE, len(pieces))):
        for role in dict.fromkeys(piece.role for piece in pieces):
            yield phase, role, [offset + i for i, piece in enumerate(pieces) if piece.role is role]


def _moved(assignment: Assignment, items: list[int], target: int) -> Assignment:
    return tuple(target if item in items else place for item, place in enumerate(assignment))


def _priced(
    decision: Decision, problem: Problem, moved: Assignment, told: tuple[Phase, Role, str, str]
) -> Move:
    phase, role, source, target = told
    verdict = evaluate(problem, moved)
    refused = _refusal(decision, problem, moved, verdict)
    answer = decision.answer
    if refused and (verdict.misplaced or any(name.startswith("memory") for name in verdict.broken)):
        return Move(phase.value, role.value, source, target, False, refused)
    rate = answer.configuration.tokens_per_s(verdict.objective)
    then = Answer(answer.configuration, moved, verdict.objective, rate)
    return Move(
        phase.value,
        role.value,
        source,
        target,
        feasible=not refused,
        reason=refused or f"limited because {bottleneck(then)}",
        tpot_us=tpot_seconds(then) * US,
        loss=1 - rate / answer.tokens_per_s,
    )


def _refusal(decision: Decision, problem: Problem, moved: Assignment, verdict: Verdict) -> str:
    """What forbids an assignment, with the numbers; '' if nothing does."""
    pricing = decision.answer.configuration.pricing
    if verdict.misplaced:
        device = pricing.groups[moved[verdict.misplaced[0]]].device
        served = serving_format(decision.request.formats)
        held = ", ".join(device.formats)
        return f"{device.name} holds weights in {held}, and the plan serves them in {served}"
    for name in verdict.broken:
        kind, _, place = name.partition(".")
        if kind == "memory":
            usable = next(row.limit for row in problem.rows if row.name == name) or 0
            needs, offers = verdict.rows[name] * KILO / 1e9, usable * KILO / 1e9
            pool = pricing.names[int(place)]
            return f"a device of {pool} would have to hold {needs:,.4g} GB, and {offers:,.4g} GB are usable"
    return _too_slow(decision, verdict)


def _too_slow(decision: Decision, verdict: Verdict) -> str:
    limits, load = decision.request.limits, decision.answer.configuration.pricing.load
    if "ttft" in verdict.broken and limits.ttft_s is not None:
        took = verdict.rows["ttft"] / PICO * MS
        return f"the first token would take {took:,.0f} ms, and the tier asks for {limits.ttft_s * MS:,.0f}"
    groups = decision.answer.configuration.pricing.groups
    step = verdict.objective / PICO + step_overhead_s(groups)
    if limits.tpot_s is not None and step > limits.tpot_s:
        mine, asked = load.accepted / step, load.accepted / limits.tpot_s
        return f"{mine:,.0f} tokens/s/user would come out, and the tier asks for {asked:,.0f}"
    return ""
