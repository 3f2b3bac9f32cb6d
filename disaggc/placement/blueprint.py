"""From a decision to the parts of a plan that need no files: pools, schedule, predictions, alternatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from disaggc.ir import Graph, Phase, State, parse_dim
from disaggc.ir.dims import CACHED, NEW, Expr
from disaggc.placement.check import evaluate, row_value
from disaggc.placement.decide import Decision, Option, bottleneck, tpot_seconds
from disaggc.placement.formulation import PICO, STEP_OVERHEAD_S, step_overhead_s
from disaggc.placement.frontier import answer_per_mw
from disaggc.placement.modes import ANY
from disaggc.placement.objective import MEASURES, SubFleet
from disaggc.placement.pieces import Piece
from disaggc.placement.pricing import LIVE_VALUES, RESERVE, Limits
from disaggc.placement.search import SIMPLICITY, Answer, price
from disaggc.plans import (
    Alternative,
    Certificate,
    Feed,
    FleetOption,
    Interval,
    MemoryMap,
    Parallelism,
    Pool,
    Prediction,
    Schedule,
    StateRef,
)
from disaggc.targets import Confidence, Figure, figures, weakest

US = 1e6
PRICED = (
    "device.compute",
    "device.memories",
    "device.layer_latency",
    "device.efficiency",
    "scale_",
    "hops",
    "step_overhead",
)
"""How names of figures that predictions rest on begin; power and price come in per watt or dollar alone."""

OWN_OVERHEAD = f"engine overhead of a step = {STEP_OVERHEAD_S * US:g} us"
OWN_CONSTANTS = (
    OWN_OVERHEAD,
    f"share of each memory kept free = {RESERVE:g}",
    f"widest activations live at once = {LIVE_VALUES}",
    "kernels started for each role = passes/costs/serving.toml",
)
"""What the cost model itself assumes without a source; shown with the inferred figures of the machines."""


def pools(decision: Decision) -> tuple[Pool, ...]:
    """The pools of a plan in the order of the fleet."""
    return tuple(_pool(decision, place) for place in sorted(set(decision.answer.assignment)))


def _pool(decision: Decision, place: int) -> Pool:
    answer = decision.answer
    group = answer.configuration.pricing.groups[place]
    busy = price(answer, overlapped=False)[f"busy.{place}"] / answer.objective
    return Pool(
        name=answer.configuration.pricing.names[place],
        system=group.system.name,
        count=group.count,
        device=group.device.name,
        devices=group.devices,
        available=group.reserved or group.system.devices * group.count,
        parallelism=Parallelism(group.tp, group.dp, group.pp, group.ep),
        memory=_memory(decision, place),
        roles=tuple(_roles(decision, place)),
        utilisation=busy,
        weakest=weakest(f for n, f in figures(group.system) if n.startswith(PRICED)).value,
    )


def _memory(decision: Decision, place: int) -> MemoryMap:
    """The map of one device, from the same amounts that the solver was limited by."""
    answer, n = decision.answer, len(decision.request.pieces.pieces)
    configuration, pricing = answer.configuration, answer.configuration.pricing
    memory = pricing.groups[place].device.main
    batch = np.asarray(float(configuration.batch))
    weights = kv = 0.0
    activations = float(pricing.activation_bytes(place, batch, configuration.micro_batches))
    for i, piece in enumerate(decision.request.pieces.pieces):
        if place in (answer.assignment[i], answer.assignment[n + i]):
            weights += pricing.weight_bytes(piece, place)
        if answer.assignment[n + i] == place:
            kv += float(pricing.cache_bytes(piece, place, batch, configuration.micro_batches))
            activations += float(pricing.logits_bytes(piece, place, batch, configuration.micro_batches))
        if answer.assignment[i] == place:
            kv += pricing.prompt_cache_bytes(piece, place)
    for tie in decision.request.pieces.ties:
        readers = sum(place in (answer.assignment[i], answer.assignment[n + i]) for i in tie.pieces)
        weights -= max(0, readers - 1) * pricing.tie_bytes(tie, place)
    return MemoryMap(memory.name, memory.capacity.si, weights, kv, activations, memory.capacity.si * RESERVE)


def _roles(decision: Decision, place: int) -> list[str]:
    """'decode: qkv, core_attention' for each phase that has something here."""
    pieces, answer = decision.request.pieces.pieces, decision.answer
    told = []
    for phase, offset in ((Phase.PREFILL, 0), (Phase.DECODE, len(pieces))):
        placed = answer.assignment[offset : offset + len(pieces)]
        here = [piece for piece, at in zip(pieces, placed, strict=True) if at == place]
        away = [piece for piece, at in zip(pieces, placed, strict=True) if at != place]
        if here:
            told.append(f"{phase.value}: {_listed(here, away)}")
    return told


def _listed(here: list[Piece], away: list[Piece]) -> str:
    """Roles by name, or by what is missing where that is shorter; of those that are parted, how many."""
    mine, others = _counted(here), _counted(away)
    if not others:
        return "everything"
    if len(others) < len(mine) and not set(mine) & set(others):
        return f"everything but {', '.join(others)}"
    parted = {piece.role.value for piece in (*here, *away) if piece.bundle} & set(others)
    told = (
        f"{role} ({count} of {count + others[role]})" if role in parted else role
        for role, count in mine.items()
    )
    return ", ".join(told)


def _counted(pieces: list[Piece]) -> dict[str, int]:
    """Roles with how often each is there."""
    found: dict[str, int] = {}
    for piece in pieces:
        found[piece.role.value] = found.get(piece.role.value, 0) + piece.count
    return found


def schedule(decision: Decision) -> Schedule:
    """Batch and micro-batches with the requests that they are meant for."""
    load, configuration = decision.request.load, decision.answer.configuration
    return Schedule(
        configuration.batch,
        configuration.micro_batches,
        load.context_tokens,
        load.input_tokens + load.cached_tokens,
        load.output_tokens,
        load.step_tokens,
        load.accepted,
        step_overhead_s(configuration.pricing.groups) * US,
    )


def prediction(decision: Decision, price_usd_per_mtok: float | None) -> Prediction:
    """What the cost model says, conservative and optimistic."""
    answer = decision.answer
    exposed, hidden = price(answer, overlapped=False), price(answer, overlapped=True)
    slow = tpot_seconds(answer)
    overhead = step_overhead_s(answer.configuration.pricing.groups)
    step = max(v for n, v in hidden.items() if _is_soft(n)) / PICO + overhead
    fast = step / decision.request.load.accepted
    in_flight = answer.configuration.batch * answer.configuration.micro_batches
    rate = Interval(in_flight / slow, in_flight / fast)
    used = {answer.configuration.pricing.groups[p] for p in answer.assignment}
    megawatts = sum(g.system.power.si * g.systems for g in used) / 1e6
    return Prediction(
        tpot_us=Interval(slow * US, fast * US),
        ttft_us=Interval(exposed["ttft"] / PICO * US, _prefill_alone(answer) / PICO * US),
        tokens_per_s=rate,
        tokens_per_s_per_user=Interval(1 / slow, 1 / fast),
        bottleneck=bottleneck(answer),
        path_us=exposed["path"] / PICO * US,
        tokens_per_s_per_mw=rate.conservative / megawatts,
        revenue_usd_per_h=(
            None if price_usd_per_mtok is None else rate.conservative * 3600 * price_usd_per_mtok / 1e6
        ),
    )


def _is_soft(name: str) -> bool:
    return name == "path" or name.startswith(("busy.", "link."))


def _prefill_alone(answer: Answer) -> int:
    """Time to first token with every transfer hidden."""
    problem = answer.configuration.problem(Limits(None, None), ANY)
    row = next(r for r in problem.rows if r.name == "ttft")
    return row_value(problem, replace(row, cross={}), answer.assignment)


def alternatives(decision: Decision) -> tuple[Alternative, ...]:
    """Every mode with its best plan or the reason why it has none."""
    return tuple(_alternative(option) for option in decision.options)


def _alternative(option: Option) -> Alternative:
    answer = option.answer
    if answer is None:
        return Alternative(option.mode, feasible=False, chosen=False, reason=option.reason)
    return Alternative(
        option.mode,
        feasible=True,
        chosen=option.chosen,
        reason=option.reason,
        batch=answer.configuration.batch,
        micro_batches=answer.configuration.micro_batches,
        tokens_per_s=answer.tokens_per_s,
        tpot_us=tpot_seconds(answer) * US,
        loss=option.loss,
        tokens_per_s_per_mw=answer_per_mw(answer),
    )


def fleets(objective: str, parts: tuple[SubFleet, ...]) -> tuple[FleetOption, ...]:
    """The parts of the fleet that were searched, the chosen one first; none for throughput."""
    return tuple(
        FleetOption(part.name, MEASURES[objective].unit, k == 0, part.tokens_per_s, part.value)
        for k, part in enumerate(parts)
    )


def certificate(decision: Decision, solver: str) -> Certificate:
    """The proof: the searched grid's bound, and the checker's verdict on the answer."""
    answer = decision.answer
    problem = answer.configuration.problem(decision.request.limits, ANY)
    verdict = evaluate(problem, answer.assignment)
    checked = verdict.feasible and verdict.objective == answer.objective
    gap = (decision.bound - answer.tokens_per_s) / decision.bound
    return Certificate(
        objective=decision.measured,
        value=answer.tokens_per_s,
        bound=decision.bound,
        gap=gap,
        status="optimal" if checked and gap <= SIMPLICITY else "unproven",
        tolerance=SIMPLICITY,
        candidates=decision.candidates,
        solved=decision.solved,
        checked=checked,
        solver=solver,
    )


def states(graph: Graph) -> tuple[StateRef, ...]:
    """The model's states as the runtime keeps them."""
    return tuple(_state(graph, state) for state in graph.states)


def _state(graph: Graph, state: State) -> StateRef:
    shape: list[int | str] = []
    fixed = None
    for axis, dim in enumerate(graph.values[state.past].shape or ()):
        if axis == state.axis:
            fixed = dim if isinstance(dim, int) else None
            shape.append(state.window if state.ring and state.window else _length(state))
        else:
            shape.append(dim)
    return StateRef(
        state.past, state.present, state.dtype.label, tuple(shape), state.axis, state.in_place, fixed
    )


def _length(state: State) -> str:
    """The extent of the token axis: the whole buffer, or what has been cached."""
    return "capacity" if state.in_place else "cached"


def feeds(graph: Graph) -> tuple[Feed, ...]:
    """The model's inputs as the runtime fills them."""
    assert graph.workload is not None
    total = Expr.of(CACHED) + Expr.of(NEW)
    found = []
    for name, kind in graph.workload.feeds.items():
        value = graph.values[name]
        assert value.dtype is not None
        shape = tuple(
            "total" if isinstance(d, str) and parse_dim(d) == total else d for d in value.shape or ()
        )
        found.append(Feed(name, kind, value.dtype.label, shape))
    return tuple(found)


def provenance(decision: Decision) -> tuple[str, tuple[str, ...]]:
    """The weakest confidence that predictions rest on, and every inferred number among them."""
    used = dict.fromkeys(
        decision.answer.configuration.pricing.groups[p].system for p in decision.answer.assignment
    )
    rest = [(s.name, name, f) for s in used for name, f in figures(s) if name.startswith(PRICED)]
    inferred = [told_figure(s, name, f) for s, name, f in rest if f.confidence is Confidence.I]
    guessed = any(system.step_overhead is None for system in used)
    own = [constant for constant in OWN_CONSTANTS if guessed or constant != OWN_OVERHEAD]
    return weakest(f for _, _, f in rest).value, (*inferred, *own)


def told_figure(system: str, name: str, figure: Figure) -> str:
    """A figure with its interval, as plans list it."""
    interval = "" if figure.low is None else f" ({figure.low:g} to {figure.high:g})"
    return f"{system} {name} = {figure.value:g} {figure.unit}{interval}"
