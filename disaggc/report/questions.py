"""Answers to what people ask of a plan, in sentences with its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from disaggc.errors import JobError, nearest
from disaggc.plans import Alternative, Move, Plan, Pool, RoleLoad
from disaggc.report.console import amount, compact, duration
from disaggc.report.prose import FEED_FORWARD, PLURAL, binding, joined, limited, role_name

PARTS = {"attention": ("core_attention",), "ffn": FEED_FORWARD}
"""What people call parts of a model, beside the names of roles."""

KINDS = {"afd": "AFD: ", "pd": "P/D: ", "p/d": "P/D: ", "colocated": "colocated on "}
"""What people call kinds of modes, and how their names begin."""

PLACES = (
    (re.compile(r"(colocated|decode) on (?P<all>\S+)$"), ("all",)),
    (re.compile(r"P/D: prefill on \S+, decode on (?P<decode>\S+)"), ("decode",)),
    (re.compile(r"AFD: attention on (?P<attention>\S+), FFN on (?P<ffn>\S+)"), ("attention", "ffn")),
)


# Why is this here? -----------------------------------------------------------------------------


def why(plan: Plan, part: str) -> list[str]:
    """Why a part of the model is where it is.

    Args:
        plan: The plan.
        part: 'attention', 'ffn', or a role as the plan names it.

    Raises:
        JobError: The plan has no such part.
    """
    roles = roles_of(plan, part)
    if not roles:
        raise JobError(f"The plan has no part named '{part}'.{nearest(part, parts_of(plan))}")
    return [sentence for role in roles for sentence in _why_role(plan, role)]


def roles_of(plan: Plan, part: str) -> list[str]:
    """The plan's roles that a part stands for; empty if it has no such part."""
    return [role for role in PARTS.get(part, (part,)) if any(load.role == role for load in plan.loads)]


def parts_of(plan: Plan) -> list[str]:
    """What may be asked for: parts by name, and roles."""
    return list(dict.fromkeys([*PARTS, *(load.role for load in plan.loads)]))


def _why_role(plan: Plan, role: str) -> Iterator[str]:
    for phase in ("decode", "prefill"):
        loads = [load for load in plan.loads if (load.phase, load.role) == (phase, role)]
        for load in loads:
            yield _placed(plan, load)
        for move in (m for m in plan.moves if (m.phase, m.role) == (phase, role)):
            yield _moved(move)
    yield from _elsewhere(plan, role)


def _placed(plan: Plan, load: RoleLoad) -> str:
    """Where a role is, what it takes there, and what it keeps in memory."""
    pool = _pool(plan, load.pool)
    same = [other for other in plan.loads if (other.phase, other.pool) == (load.phase, load.pool)]
    share = load.time_us / (sum(other.time_us for other in same) or 1.0)
    unit = f"each micro-batch of {plan.schedule.micro_batch:,}" if load.phase == "decode" else "each prompt"
    kept = [
        f"{amount(size, 'B')} of {what}"
        for what, size in (("weights", load.weight_bytes), ("cache", load.cache_bytes))
        if size
    ]
    memory = (
        f"; each device of {amount(pool.memory.capacity, 'B')} keeps {joined(kept)} for it" if kept else ""
    )
    verb = "are" if load.role in PLURAL else "is"
    return (
        f"In {load.phase}, {role_name(load.role)} {verb} on {load.pool} ({pool.devices:,} {pool.device}): "
        f"{duration(load.time_us)} for {unit}, {share:.0%} of what that pool does in {load.phase}, bound by "
        f"{load.bottleneck}{memory}."
    )


def _pool(plan: Plan, name: str) -> Pool:
    return next(pool for pool in plan.pools if pool.name == name)


def _moved(move: Move) -> str:
    """What it would bring to have it on another pool."""
    start = f"Moved to {move.target} in {move.phase}, everything else as planned"
    if move.loss is None or move.tpot_us is None:
        return f"{start}, it does not fit: {move.reason}."
    change = f"{move.loss:.1%} fewer tokens/s" if move.loss >= 0.0005 else "no fewer tokens/s"
    told = f"{start}, there would be {change} ({duration(move.tpot_us)} a token)"
    return (
        f"{told}, {limited(move.reason)}."
        if move.feasible
        else f"{told}, which the tier forbids: {move.reason}."
    )


def _elsewhere(plan: Plan, role: str) -> Iterator[str]:
    """The best plans that decode it at another place, everything else free."""
    here = {load.pool for load in plan.loads if (load.phase, load.role) == ("decode", role)}
    systems = {pool.system for pool in plan.pools if pool.name in here}
    by_place: dict[str, list[Alternative]] = {}
    for alternative in plan.alternatives:
        place = place_of(alternative.mode, role)
        if not alternative.chosen and place and place not in systems:
            by_place.setdefault(place, []).append(alternative)
    for place, found in by_place.items():
        start = f"Decoded on {place}, everything else free,"
        best = next((a for a in found if a.feasible), None)
        if best is not None:
            yield f"{start} it would come to {_told(best)}."
        else:
            yield f"{start} it has no plan that meets the tier ({_refusals(found)})."


def _refusals(found: Sequence[Alternative]) -> str:
    """Modes with why they have no plan, those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for alternative in found:
        by_reason.setdefault(alternative.reason, []).append(alternative.mode)
    return "; ".join(f"{' and '.join(modes)}: {reason}" for reason, modes in by_reason.items())


def _told(alternative: Alternative) -> str:
    rate = compact(alternative.tokens_per_s or 0.0)
    why = limited(alternative.reason)
    return f"{rate} tokens/s, {_against(alternative)}, at best ({alternative.mode}, {why})"


def place_of(mode: str, role: str) -> str:
    """The system that a mode decodes a role on, '' where its name does not say."""
    part = "attention" if role == "core_attention" else "ffn" if role in FEED_FORWARD else "rest"
    for pattern, groups in PLACES:
        found = pattern.match(mode)
        if found is not None:
            chosen = next((g for g in (part, "decode", "all") if g in groups), "")
            return found[chosen] if chosen else ""
    return ""


def _against(alternative: Alternative) -> str:
    loss = alternative.loss or 0.0
    return f"{loss:.1%} less" if loss >= 0.0005 else "as much as the plan"


# Why not another mode? -------------------------------------------------------------------------


def why_not(plan: Plan, asked: str) -> list[str]:
    """What other modes give, or why they have no plan.

    Args:
        plan: The plan.
        asked: 'afd', 'pd', 'colocated', or (part of) a mode's name.

    Raises:
        JobError: No mode is called so.
    """
    begin = KINDS.get(asked.lower())
    found = [
        a
        for a in plan.alternatives
        if (a.mode.startswith(begin) if begin else asked.lower() in a.mode.lower())
    ]
    if not found:
        modes = [a.mode for a in plan.alternatives]
        raise JobError(f"No mode named '{asked}' was searched.{nearest(asked, [*KINDS, *modes])}")
    return [_against_plan(plan, a) for a in found]


def _against_plan(plan: Plan, alternative: Alternative) -> str:
    if alternative.chosen:
        p = plan.prediction
        rate = compact(p.tokens_per_s.conservative)
        return f"It is {alternative.mode}: {rate} tokens/s, the most of all modes."
    if not alternative.feasible:
        return f"{alternative.mode} has no plan that meets the tier: {alternative.reason}."
    speed = f"{1e6 / alternative.tpot_us:,.0f} tokens/s for each user" if alternative.tpot_us else ""
    held = f"{alternative.micro_batches} x {alternative.batch or 0:,} requests in flight"
    return (
        f"{alternative.mode} gives {compact(alternative.tokens_per_s or 0.0)} tokens/s, "
        f"{_against(alternative)} ({speed}, {held}); it is {limited(alternative.reason)}."
    )


# What binds? -----------------------------------------------------------------------------------


def what_binds(plan: Plan) -> list[str]:
    """What the time per token is made of, and how much room every other limit leaves."""
    return [*binding(plan), *_demands(plan), *_memories(plan), *_transfers(plan)]


def _demands(plan: Plan) -> Iterator[str]:
    p, goal = plan.prediction, plan.goal
    speed, first = p.tokens_per_s_per_user.conservative, p.ttft_us.conservative / 1e3
    yield (
        f"The tier asks for {goal.tokens_per_s_per_user:,.4g} tokens/s for each user: {speed:,.0f} come out, "
        f"{speed / goal.tokens_per_s_per_user - 1:+.0%}."
    )
    yield (
        f"It asks for the first token within {goal.ttft_ms:,.4g} ms: {first:,.3g} ms without queueing, "
        f"{first / goal.ttft_ms:.0%} of that."
    )


def _memories(plan: Plan) -> Iterator[str]:
    for pool in plan.pools:
        m = pool.memory
        size, kind = max((m.weights, "weights"), (m.kv, "cache"), (m.activations, "activations"))
        free, whole = amount(m.capacity - m.used, "B"), amount(m.capacity, "B")
        yield (
            f"A device of {pool.name} is {m.used / m.capacity:.0%} full: {free} of {whole} are free beside a "
            f"reserve of {amount(m.reserve, 'B')}; {kind} take{'s' if kind == 'cache' else ''} the most, "
            f"{amount(size, 'B')}."
        )


def _transfers(plan: Plan) -> Iterator[str]:
    found, p = plan.decode.transfers, plan.prediction
    if found:
        took = sum(t.time_us for t in found)
        gain = p.tokens_per_s.optimistic / p.tokens_per_s.conservative - 1
        yield (
            f"{len(found)} transfers take {duration(took)} of the {duration(p.path_us)} of one token's path; "
            f"hiding all of them would bring {gain:.1%} more tokens/s."
        )
