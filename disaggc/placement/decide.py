"""The choice: the best plan of every mode, the best of all, and why the others are not it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from disaggc.errors import InfeasiblePlanError
from disaggc.placement.diagnose import diagnose, relaxations
from disaggc.placement.formulation import PICO, step_overhead_s
from disaggc.placement.modes import ANY, Mode, mode_name, modes_called, parted_layers
from disaggc.placement.search import Answer, Outcome, Request, fewest_devices, price, search


@dataclass(frozen=True, slots=True)
class Option:
    """What became of one mode.

    Attributes:
        mode: As reported.
        answer: Its best plan, None if it has none.
        reason: What limits it, or why there is none and by what margin.
        loss: Share of the chosen plan's tokens/s that it gives up.
    """

    mode: str
    answer: Answer | None
    chosen: bool
    reason: str
    loss: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen plan with its alternatives and the proof.

    Attributes:
        mode: The chosen plan's mode.
        answer: The chosen plan.
        options: Every mode, the best first, those without a plan last.
        bound: No plan of the searched grid does better, in tokens/s.
        candidates: Configurations of the grid, all modes together.
        solved: Those that the solver saw; bounds closed the rest.
        measured: What the bound is a bound of.
    """

    request: Request
    mode: str
    answer: Answer
    options: tuple[Option, ...]
    bound: float
    candidates: int
    solved: int
    measured: str = "tokens per second of the whole fleet"


def decide(request: Request, tell: Callable[[str], None] = lambda _: None) -> Decision:
    """The plan of most tokens per second among the request's modes, with the best of each beside it.

    Raises:
        InfeasiblePlanError: No plan meets the tier; says why for each mode and what would work.
    """
    names = [system.name for system, _ in request.fleet]
    outcomes = [(mode, search(request, mode, tell=tell)) for mode in modes_called(request.mode, names)]
    everything = _best_of(request, outcomes, tell)
    if everything.answer is None:
        raise InfeasiblePlanError(_infeasible(request, outcomes))
    chosen = everything.answer
    kind = mode_name(request.pieces, _places(chosen), chosen.assignment)
    name = kind + parted_layers(request.pieces, chosen.assignment)
    searched = [*(o for _, o in outcomes), everything]
    return Decision(
        request,
        name,
        chosen,
        tuple(_options(request, [(m, o) for m, o in outcomes if m.name != kind], chosen, name)),
        everything.bound,
        sum(o.candidates for o in searched),
        sum(o.solved for o in searched),
    )


def _best_of(request: Request, outcomes: list[tuple[Mode, Outcome]], tell: Callable[[str], None]) -> Outcome:
    """The best plan of any mode; of the best of those that were asked for, if the job names some."""
    mode, best = max(outcomes, key=lambda each: each[1].answer.tokens_per_s if each[1].answer else 0.0)
    if request.mode:
        return fewest_devices(request, mode, best)
    return fewest_devices(request, ANY, search(request, ANY, start=best.answer, tell=tell))


def bottleneck(answer: Answer) -> str:
    """What the chosen TPOT is made of: the path of one token, a busy pool, or a link."""
    rows = price(answer, overlapped=False)
    soft = {n: v for n, v in rows.items() if n == "path" or n.startswith(("busy.", "link."))}
    name = max(soft, key=lambda n: soft[n])
    places = _places(answer)
    match name.split("."):
        case ["path"]:
            return "the path of one token through all layers (latency)"
        case ["busy", place]:
            return f"{places[int(place)]} is busy all the time"
        case [_, source, target]:
            return f"the link from {places[int(source)]} to {places[int(target)]} is busy all the time"
    raise AssertionError(name)


def _places(answer: Answer) -> list[str]:
    return list(answer.configuration.pricing.names)


def _options(
    request: Request, outcomes: list[tuple[Mode, Outcome]], chosen: Answer, name: str
) -> list[Option]:
    found = []
    for mode, outcome in outcomes:
        if outcome.answer is None:
            found.append(Option(mode.name, None, False, diagnose(request, mode), None))
        else:
            loss = 1 - outcome.answer.tokens_per_s / chosen.tokens_per_s
            reason = f"limited because {bottleneck(outcome.answer)}"
            found.append(Option(mode.name, outcome.answer, False, reason, loss))
    found.append(Option(name, chosen, True, f"limited because {bottleneck(chosen)}", 0.0))
    return sorted(
        found, key=lambda o: (o.answer is None, -(o.answer.tokens_per_s if o.answer else 0), not o.chosen)
    )


def _infeasible(request: Request, outcomes: list[tuple[Mode, Outcome]]) -> str:
    fleet = ", ".join(f"{n} x {s.name}" for s, n in request.fleet)
    lines = [f"No plan on {fleet} meets the tier."]
    lines += [f"  {mode.name}: {diagnose(request, mode)}" for mode, _ in outcomes]
    cures = relaxations(request)
    lines.append(
        "Any one of these would make a plan possible:"
        if cures
        else "No single change of the tier or the fleet helps."
    )
    return "\n".join([*lines, *(f"  {cure}" for cure in cures)])


def tpot_seconds(answer: Answer) -> float:
    """Seconds per output token, engine overhead included."""
    step = answer.objective / PICO + step_overhead_s(answer.configuration.pricing.groups)
    return step / answer.configuration.pricing.load.accepted
