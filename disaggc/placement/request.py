"""From a job to what is searched: tier filled in, fleet resolved, graph folded."""

from __future__ import annotations

from dataclasses import replace

from disaggc.cost import Formats, format_bits
from disaggc.errors import JobError
from disaggc.ir import Graph
from disaggc.placement.pieces import Pieces, fold
from disaggc.placement.pricing import Limits, Load
from disaggc.placement.search import BATCHES, MICRO_BATCHES, Request
from disaggc.plans import Job, TierSpec
from disaggc.targets import Library


def request_of(job: Job, tier: TierSpec, graph: Graph, library: Library) -> Request:
    """What to search.

    Args:
        job: As the user wrote it.
        tier: Its tier, from ``resolve_tier``.
        graph: The analysed model.
        library: Declared machines.

    Raises:
        JobError: The model has no token stream, or a number format is unknown.
        UnknownTargetError: The fleet names a system that is not declared.
    """
    pieces = placed(graph, job.search.some_layers)
    for name in (job.model.weights, job.model.kv, job.model.activations):
        format_bits(name, 16)
    assert tier.context_tokens and tier.input_tokens and tier.tokens_per_s_per_user and tier.ttft_ms
    load = load_of(tier)
    return Request(
        pieces=pieces,
        fleet=tuple((library.system(name), count) for name, count in job.fleet.items()),
        load=load,
        formats=Formats(job.model.weights, job.model.kv, job.model.activations),
        limits=Limits(load.accepted / tier.tokens_per_s_per_user, tier.ttft_ms / 1e3),
        batches=job.search.batch or BATCHES,
        micro_batches=job.search.micro_batches or MICRO_BATCHES,
        mode=job.search.mode,
    )


def placed(graph: Graph, bundled: bool = False) -> Pieces:
    """The pieces of a decoder, as ``fold`` takes them.

    Raises:
        JobError: The model has no token stream.
    """
    if graph.workload is None:
        raise JobError(
            f"'{graph.source.name}' has no stream of tokens from an embedding to logits, so there are no "
            f"phases to place. 'disaggc inspect' shows what was found; export the decoder with its KV cache."
        )
    return fold(graph, bundled)


def load_of(tier: TierSpec) -> Load:
    """What the requests of a tier with every field filled in look like, in the middle of their session.

    Of a session of ``turns``, a turn finds on average half of the others before it, prompts and answers,
    in the cache.
    """
    assert tier.context_tokens is not None and tier.input_tokens is not None
    hit = int(tier.input_tokens * tier.prefix_hit)
    before = (tier.turns - 1) * (tier.input_tokens + tier.output_tokens) // 2
    return Load(
        tier.input_tokens - hit,
        hit + before,
        tier.output_tokens,
        tier.context_tokens,
        tier.draft_tokens + 1,
        tier.tokens_per_step,
    )


def resolve_tier(spec: TierSpec, library: Library) -> TierSpec:
    """A tier with every field filled in from the declared tier that it is like.

    Raises:
        UnknownTargetError: There is no such tier.
        JobError: A field is given nowhere, or a request is longer than its context.
    """
    tier = _like(spec, library) if spec.like else spec
    for name in ("context_tokens", "ttft_ms", "tokens_per_s_per_user"):
        if getattr(tier, name) is None:
            raise JobError(
                f"[[tier]] gives no {name}. Write it, or like = 'gtc2026/premium' to take a declared one."
            )
    assert tier.context_tokens is not None
    prompt = tier.input_tokens or tier.context_tokens // tier.turns - tier.output_tokens
    if prompt < 1 or tier.turns * (prompt + tier.output_tokens) > tier.context_tokens:
        session = f"{tier.turns} turns of " if tier.turns > 1 else ""
        raise JobError(
            f"[[tier]] {tier.name}: {session}{max(prompt, 0):,} input and {tier.output_tokens:,} output "
            f"tokens do not fit context_tokens = {tier.context_tokens:,}. Shorten the request or lengthen "
            f"the context."
        )
    return replace(tier, name=tier.name or "tier", input_tokens=prompt)


def _like(spec: TierSpec, library: Library) -> TierSpec:
    declared = library.tier(spec.like)
    price = spec.price_usd_per_mtok
    return replace(
        spec,
        name=spec.name or spec.like,
        context_tokens=spec.context_tokens or int(declared.context_tokens.value),
        ttft_ms=spec.ttft_ms or declared.ttft_ms.value,
        tokens_per_s_per_user=spec.tokens_per_s_per_user or declared.tokens_per_s_per_user.value,
        price_usd_per_mtok=declared.price_usd_per_mtok.value if price is None else price,
    )
