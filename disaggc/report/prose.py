"""A plan in sentences, as an engineer would tell it; every number is the plan's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from disaggc.plans import Alternative, Plan, Pool, RoleLoad
from disaggc.report.console import compact, duration

ATTENTION = ("core_attention",)
FEED_FORWARD = ("experts", "ffn")

ROLE_NAMES = {
    "core_attention": "core attention",
    "qkv": "QKV projections",
    "out_projection": "output projection",
    "experts": "experts",
    "ffn": "FFN",
    "shared_expert": "shared expert",
    "norm": "norms",
    "router": "router",
    "embedding": "embedding",
    "head": "head",
}


def role_name(role: str) -> str:
    """A role as people say it."""
    return ROLE_NAMES.get(role, role.replace("_", " "))


def joined(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def verdict(plan: Plan) -> str:
    """The choice in two sentences, with what it comes to."""
    p, goal = plan.prediction, plan.goal
    speed = p.tokens_per_s_per_user.conservative
    return (
        f"{_where(plan)}. That gives {compact(p.tokens_per_s.conservative)} tokens/s in all and "
        f"{speed:,.0f} tokens/s for each user, {_over(speed, goal.tokens_per_s_per_user)}; "
        f"the first token takes {duration(p.ttft_us.conservative)}."
    )


def _where(plan: Plan) -> str:
    """Who decodes what, and who prefills."""
    if len(plan.pools) == 1:
        return f"Everything runs on {_machine(plan.pools[0])}"
    attention, forward = _pools_of(plan, "decode", ATTENTION), _pools_of(plan, "decode", FEED_FORWARD)
    if not attention or not forward:
        return "; ".join(f"{_machine(pool)}: {'; '.join(pool.roles)}" for pool in plan.pools)
    if attention == forward:
        decode = f"Layers decode on {_machines(attention)}"
    else:
        kind = "experts" if any(load.role == "experts" for load in plan.loads) else "FFN"
        decode = f"In decode, attention runs on {_machines(attention)} and {kind} on {_machines(forward)}"
    return f"{decode}; {_prefill(plan)}"


def _prefill(plan: Plan) -> str:
    pools = _pools_of(plan, "prefill", ())
    if len(pools) == len(plan.pools):
        return "prefill is shared among them" if len(pools) > 2 else "prefill is shared by both"
    return f"prefill runs on {_machines(pools)}"


def _pools_of(plan: Plan, phase: str, roles: Sequence[str]) -> list[Pool]:
    """The pools that some roles of a phase are on; all of its roles where none is named."""
    names = {load.pool for load in plan.loads if load.phase == phase and (not roles or load.role in roles)}
    return [pool for pool in plan.pools if pool.name in names]


def _machines(pools: Sequence[Pool]) -> str:
    return joined([_machine(pool) for pool in pools])


def _machine(pool: Pool) -> str:
    return f"{pool.devices:,} {pool.device} of {pool.name}"


def _over(value: float, asked: float) -> str:
    share = value / asked - 1
    if abs(share) < 0.005:
        return f"just the {asked:,.0f} that the tier asks for"
    return f"{abs(share):.0%} {'over' if share > 0 else 'under'} the {asked:,.0f} that the tier asks for"


def paragraph(plan: Plan) -> str:
    """What was chosen, what limits it, what else there was, and how far to trust it."""
    return " ".join((verdict(plan), *binding(plan), *_others(plan), _trust(plan)))


def binding(plan: Plan) -> Iterator[str]:
    """What the time per token is made of, and how busy each pool is."""
    yield f"A step is {limited(plan.prediction.bottleneck)}."
    if plan.prediction.bottleneck.startswith("the path"):
        yield _path(plan)
    else:
        yield from _busiest(plan)
    yield f"{joined([f'{pool.name} is busy {pool.utilisation:.0%}' for pool in plan.pools])} of a step."


def limited(bottleneck: str) -> str:
    """'limited by the path ...', 'limited because vr-nvl72 is busy ...'."""
    told = bottleneck.removeprefix("limited because ")
    return f"limited {'by' if told.startswith('the path') else 'because'} {told}"


def _path(plan: Plan) -> str:
    """Where the time of one token's path goes."""
    parts = [
        (f"on {pool.name}", sum(x.time_us for x in decode_loads(plan, pool.name))) for pool in plan.pools
    ]
    parts.append(("in transfers", sum(transfer.time_us for transfer in plan.decode.transfers)))
    told = [f"{duration(us)} {where}" for where, us in parts if us > 0]
    return f"Of its {duration(plan.prediction.path_us)}, it spends {joined(told)}."


def _busiest(plan: Plan) -> Iterator[str]:
    """What the busiest pool does in decode."""
    pool = max(plan.pools, key=lambda pool: pool.utilisation)
    loads = decode_loads(plan, pool.name)
    if loads:
        most = max(loads, key=lambda load: load.time_us)
        share = most.time_us / sum(load.time_us for load in loads)
        yield (
            f"In decode, {pool.name} spends {share:.0%} of its time on {role_name(most.role)}, bound by "
            f"{most.bottleneck}: {duration(most.time_us)} for each micro-batch of "
            f"{plan.schedule.micro_batch:,} requests."
        )


PLURAL = ("experts", "norm", "qkv")


def decode_loads(plan: Plan, pool: str) -> list[RoleLoad]:
    """What a pool does in decode."""
    return [load for load in plan.loads if load.phase == "decode" and load.pool == pool]


def _others(plan: Plan) -> Iterator[str]:
    """The next best mode, and how many have no plan."""
    others = [a for a in plan.alternatives if a.feasible and not a.chosen]
    refused = sum(not a.feasible for a in plan.alternatives)
    if not others:
        if refused:
            yield "No other mode has a plan that meets the tier."
        return
    yield f"The next best mode, {others[0].mode}, gives {_less(others[0])}."
    if refused:
        yield f"{refused} mode{'s have' if refused > 1 else ' has'} no plan that meets the tier."


def _less(alternative: Alternative) -> str:
    loss = alternative.loss or 0.0
    return f"{loss:.1%} fewer tokens/s" if loss > 0 else f"as many tokens/s ({-loss:.1%} more)"


def _trust(plan: Plan) -> str:
    p, c = plan.prediction, plan.certificate
    width = p.tokens_per_s.optimistic / p.tokens_per_s.conservative - 1
    proven = "proven best of" if c.status == "optimal" else "not proven best of"
    return (
        f"It is {proven} {c.candidates:,} configurations within {c.tolerance:.1%}; hiding every transfer "
        f"would bring {width:.1%} more, and {len(plan.inferred)} of the numbers behind it are inferred."
    )
