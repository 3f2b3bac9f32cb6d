"""From a job with tiers that share a fleet to what is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from disaggc.cost import Formats, format_bits
from disaggc.ir import Graph
from disaggc.placement.fleet.demand import Budget, Demand, Wanted
from disaggc.placement.pieces import Pieces
from disaggc.placement.pricing import Limits, Load
from disaggc.placement.request import load_of, placed
from disaggc.plans import Job, TierSpec
from disaggc.targets import Library


def wanted_of(
    job: Job, tiers: Sequence[TierSpec], graph: Graph, library: Library, draft: Pieces | None = None
) -> Wanted:
    """What the fleet solve looks at.

    Args:
        job: As the user wrote it.
        tiers: Its tiers, from ``resolve_tier``.
        graph: The analysed model.
        library: Declared machines.
        draft: The folded draft model, where the job names one.

    Raises:
        JobError: The model has no token stream, or a number format is unknown.
        UnknownTargetError: The fleet names a system that is not declared.
    """
    pieces = placed(graph)
    for name in (job.model.weights, job.model.kv, job.model.activations):
        format_bits(name, 16)
    power, usd = job.budget.power_kw, job.budget.usd_per_h
    return Wanted(
        pieces=pieces,
        fleet=tuple((library.system(name), count) for name, count in job.fleet.items()),
        tiers=tuple(demand_of(tier, draft is not None) for tier in tiers),
        formats=Formats(job.model.weights, job.model.kv, job.model.activations),
        budget=Budget(None if power is None else power * 1e3, usd),
        draft=draft,
    )


def demand_of(tier: TierSpec, drafts: bool) -> Demand:
    """One tier with every field filled in.

    Where a draft model is to be placed, a tier that can use it is priced with and without: the drafted load
    verifies all drafted tokens in a step, the plain one computes a token a step.
    """
    load = load_of(tier)
    drafted = load if drafts and tier.draft_tokens else None
    plain = replace(load, step_tokens=1, accepted=1.0) if drafted is not None else load
    return Demand(
        name=tier.name,
        load=plain,
        limits=_limits(tier, plain),
        price_usd_per_mtok=tier.price_usd_per_mtok or 0.0,
        requests_per_s=requests_per_s(tier),
        least_share=tier.least_share,
        drafted=drafted,
        drafted_limits=None if drafted is None else _limits(tier, drafted),
    )


def _limits(tier: TierSpec, load: Load) -> Limits:
    assert tier.tokens_per_s_per_user is not None and tier.ttft_ms is not None
    return Limits(load.accepted / tier.tokens_per_s_per_user, tier.ttft_ms / 1e3)


def requests_per_s(tier: TierSpec) -> float | None:
    """A tier's demand in requests a second; None for an open market.

    A number of requests under way is a rate by Little's law: each takes the tier's time to the first token
    and its answer at the tier's slowest speed.
    """
    if tier.demand_tokens_per_s is not None:
        return tier.demand_tokens_per_s / tier.output_tokens
    if tier.concurrency is not None:
        assert tier.tokens_per_s_per_user is not None and tier.ttft_ms is not None
        return tier.concurrency / (tier.ttft_ms / 1e3 + tier.output_tokens / tier.tokens_per_s_per_user)
    return tier.requests_per_s
