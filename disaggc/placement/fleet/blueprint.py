"""From a fleet's decision to the parts of its plan that need no files."""

from __future__ import annotations

from collections.abc import Iterator

from disaggc.cost import Group
from disaggc.placement.blueprint import OWN_CONSTANTS, PRICED, told_figure
from disaggc.placement.fleet.columns import Column, Tally
from disaggc.placement.fleet.decide import FleetDecision
from disaggc.placement.fleet.deploy import parts_of, planned_step_s
from disaggc.placement.fleet.economics import MTOK_PER_H, Spent, freed_bytes, prefill_share, spent_on
from disaggc.placement.fleet.queueing import BUSIEST
from disaggc.placement.fleet.reasons import reason_of, watts
from disaggc.plans import (
    BreakEven,
    Certificate,
    Change,
    Economics,
    GroupPlan,
    ModeReport,
    Parallelism,
    ReplicaPlan,
    SystemUse,
    TierPlan,
    kind_words,
)
from disaggc.targets import Confidence, System, figures, weakest

US = 1e6


def names(decision: FleetDecision) -> dict[int, str]:
    """Column to the name of its replicas: the tier's last word, and a number."""
    counts: dict[str, int] = {}
    found = {}
    for k, column, _ in decision.running:
        stem = _stem(decision.wanted.tiers[column.tier].name)
        stem = f"{stem}-prefill" if column.form == "prefill" else stem
        counts[stem] = counts.get(stem, 0) + 1
        found[k] = f"{stem}-{counts[stem]}"
    return found


def _stem(tier: str) -> str:
    """A tier's name as part of a folder's: letters, digits and dashes."""
    last = tier.rpartition("/")[2].lower()
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in last).strip("-") or "tier"


def replicas(decision: FleetDecision) -> tuple[ReplicaPlan, ...]:
    """Every kind of replica that runs."""
    named = names(decision)
    return tuple(_replica(decision, k, column, n, named[k]) for k, column, n in decision.running)


def _replica(decision: FleetDecision, index: int, column: Column, count: int, name: str) -> ReplicaPlan:
    deployed = decision.deployments.get(index)
    planned = _planned(decision, column, count)
    step = 0.0 if deployed is None else planned_step_s(deployed)
    return ReplicaPlan(
        name=name,
        tier=decision.wanted.tiers[column.tier].name,
        form=column.form,
        mode=column.mode if deployed is None else deployed.decision.mode,
        home=column.home,
        replicas=count,
        groups=tuple(_group(part, g) for part, g in zip(parts_of(column), column.groups, strict=True)),
        requests_per_s=column.requests_per_s,
        planned_requests_per_s=planned,
        utilisation=planned / (count * column.requests_per_s),
        micro_batch=column.batch,
        micro_batches=column.micro_batches,
        step_us=step * US,
        ttft_us=column.ttft_s * US,
        plan="" if deployed is None else f"deployments/{name}",
    )


def _group(part: str, group: Group) -> GroupPlan:
    split = Parallelism(group.tp, group.dp, group.pp, group.ep)
    return GroupPlan(
        part, group.system.name, group.reserved, split, group.spilled_experts, group.spilled_cache
    )


def _planned(decision: FleetDecision, column: Column, count: int) -> float:
    """Requests a second of all replicas of a column: its share of its stream, by what each could serve."""
    home = "" if column.form == "whole" else column.home
    stream = decision.choice.audit.streams.get((column.tier, home), 0.0)
    alike = [
        n * c.requests_per_s
        for _, c, n in decision.running
        if (c.tier, c.form) == (column.tier, column.form) and home in ("", c.home)
    ]
    return stream * count * column.requests_per_s / sum(alike)


def tiers(decision: FleetDecision) -> tuple[TierPlan, ...]:
    """What each tier asked for and gets."""
    return tuple(_tier(decision, k) for k in range(len(decision.wanted.tiers)))


def _tier(decision: FleetDecision, tier: int) -> TierPlan:
    demand, served = decision.wanted.tiers[tier], decision.choice.audit.served[tier]
    tokens = served * demand.tokens_per_request
    spent = _spent(decision, tier)
    computed = served * demand.load.input_tokens
    return TierPlan(
        name=demand.name,
        context_tokens=demand.load.context_tokens,
        tokens_per_s_per_user=demand.tokens_per_s_per_user,
        ttft_ms=(demand.limits.ttft_s or 0.0) * 1e3,
        price_usd_per_mtok=demand.price_usd_per_mtok,
        requests_per_s=demand.requests_per_s,
        least_share=demand.least_share,
        served_requests_per_s=served,
        tokens_per_s=tokens,
        in_flight=_in_flight(decision, tier),
        revenue_usd_per_h=served * demand.usd_per_request * 3600,
        usd_per_mtok_in=_per_mtok(spent.prefill if spent else None, computed),
        usd_per_mtok_out=_per_mtok(spent.decode if spent else None, tokens),
        reason=_reason(decision, tier),
        modes=tuple(_modes(decision, tier)),
    )


def _spent(decision: FleetDecision, tier: int) -> Spent | None:
    mix = decision.choice.mix
    shares = [
        prefill_share(decision.table, c) if n else 0.0
        for c, n in zip(decision.market.columns, mix.replicas, strict=True)
    ]
    return spent_on(decision.market, mix.replicas, mix.systems, tier, shares)


def _per_mtok(usd_per_h: float | None, tokens_per_s: float) -> float | None:
    return None if usd_per_h is None or not tokens_per_s else usd_per_h / (tokens_per_s * MTOK_PER_H)


def _in_flight(decision: FleetDecision, tier: int) -> float:
    """Little's law over the kinds of replicas that decode for a tier: rate times the time of an answer."""
    found = 0.0
    for k, column, n in decision.running:
        if column.tier == tier and k in decision.deployments:
            load = decision.deployments[k].decision.request.load
            answer_s = load.steps * planned_step_s(decision.deployments[k])
            found += _planned(decision, column, n) * answer_s
    return found


def _reason(decision: FleetDecision, tier: int) -> str:
    """Why a tier gets no more than it does."""
    demand, served = decision.wanted.tiers[tier], decision.choice.audit.served[tier]
    mine = [c for c in decision.market.columns if c.tier == tier and c.form != "prefill"]
    if not mine:
        tallies = [
            (m, t) for (of, m), t in decision.book.tallies.items() if of == tier and "prefill" not in m
        ]
        closest = min(tallies, key=lambda pair: _distance(pair[1]))
        return (
            f"no pattern of this fleet serves it; the closest, {closest[0]}: {reason_of(closest[1], demand)}"
        )
    if demand.requests_per_s is not None and served >= demand.requests_per_s * (1 - 1e-6):
        return "its whole demand is served"
    full = [
        s.name
        for (s, n), used in zip(decision.wanted.fleet, decision.choice.mix.systems, strict=True)
        if used == n
    ]
    taken = f"; {' and '.join(full)} are all in use" if full else ""
    share = "" if demand.requests_per_s is None else f"{served / demand.requests_per_s:.0%} of its demand: "
    what = (
        "more would take machines from what counts for more"
        if served
        else "its machines count for more elsewhere"
    )
    return f"{share}{what} ({decision.objective.name}{taken})"


def _distance(tally: Tally) -> tuple[bool, float]:
    return not tally.fits, tally.fastest_token_s if tally.fits else tally.short_bytes


def _modes(decision: FleetDecision, tier: int) -> Iterator[ModeReport]:
    systems = {s.name: s for s, _ in decision.wanted.fleet}
    chosen = {c.mode for _, c, _ in decision.running if c.tier == tier}
    demand = decision.wanted.tiers[tier]
    found = []
    for (of, mode), tally in decision.book.tallies.items():
        if of == tier:
            rate = _per_kw(tally, demand.tokens_per_request, systems)
            report = ModeReport(
                mode, tally.best is not None, mode in chosen, tally.considered, reason_of(tally, demand), rate
            )
            found.append(report)
    yield from sorted(
        found, key=lambda m: (not m.chosen, not m.feasible, -(m.tokens_per_s_per_kw or 0.0), m.mode)
    )


def _per_kw(tally: Tally, tokens: int, systems: dict[str, System]) -> float | None:
    if tally.best is None or tally.best.form == "prefill":
        return None
    return tally.best.requests_per_s * tokens / watts(tally.best, systems) * 1e3


def systems(decision: FleetDecision) -> tuple[SystemUse, ...]:
    """What each kind of machine does."""
    chosen = zip(decision.wanted.fleet, decision.choice.mix.systems, strict=True)
    return tuple(_system(decision, system, count, used) for (system, count), used in chosen)


def _system(decision: FleetDecision, system: System, count: int, used: int) -> SystemUse:
    aside = 0
    does: dict[str, None] = {}
    for _, column, n in decision.running:
        aside += n * dict(column.uses).get(system.name, 0)
        for part, group in zip(parts_of(column), column.groups, strict=True):
            if group.system.name == system.name:
                does[f"{decision.wanted.tiers[column.tier].name}: {part}"] = None
    priced = [f for name, f in figures(system) if name.startswith(PRICED)]
    return SystemUse(
        system=system.name,
        available=count,
        used=used,
        devices=used * system.devices,
        set_aside=aside,
        power_kw=used * system.power.si / 1e3,
        usd_per_h=None if system.usd_per_h is None else used * system.usd_per_h.si,
        roles=tuple(does),
        weakest=weakest(priced).value,
    )


def economics(
    decision: FleetDecision, uses: tuple[SystemUse, ...], served: tuple[TierPlan, ...]
) -> Economics:
    """What the whole fleet earns and takes."""
    tokens, kilowatts = sum(t.tokens_per_s for t in served), sum(u.power_kw for u in uses)
    priced = [u.usd_per_h for u in uses if u.used]
    counts = {k: n for k, _, n in decision.running}
    freed: float = sum(
        freed_bytes(decision.table, decision.book, deployed, counts[k])
        for k, deployed in decision.deployments.items()
    )
    return Economics(
        tokens_per_s=tokens,
        revenue_usd_per_h=sum(t.revenue_usd_per_h for t in served),
        usd_per_h=None if None in priced else sum(p for p in priced if p is not None),
        power_kw=kilowatts,
        tokens_per_s_per_mw=tokens / kilowatts * 1e3 if kilowatts else 0.0,
        hbm_freed_bytes=freed,
    )


def break_even(decision: FleetDecision) -> tuple[BreakEven, ...]:
    """From which price each system pays for itself in each tier."""
    return tuple(
        BreakEven(p.system, p.count, p.tier, p.added_tokens_per_s, p.usd_per_mtok) for p in decision.paybacks
    )


def changes(decision: FleetDecision) -> tuple[Change, ...]:
    """What differs from the plan that was to be kept."""
    return tuple(
        Change(m.signature[0], kind_words(m.signature), m.before, m.after, m.worth) for m in decision.moved
    )


def certificate(decision: FleetDecision, solver: str) -> Certificate:
    """The proof: no mix of the priced patterns does better, by the solver's bound and the audit's value."""
    choice = decision.choice
    return Certificate(
        objective=f"{decision.objective.name} of the whole fleet, {decision.objective.unit}",
        value=choice.value,
        bound=choice.bound,
        gap=choice.gap,
        status="optimal" if choice.gap <= choice.tolerance + 1e-9 else "unproven",
        tolerance=choice.tolerance,
        candidates=decision.book.considered,
        solved=choice.solves + len(decision.deployments),
        checked=not choice.audit.broken,
        solver=solver,
    )


def provenance(decision: FleetDecision) -> tuple[str, tuple[str, ...]]:
    """The weakest confidence that predictions rest on, and every inferred number among them."""
    chosen = zip(decision.wanted.fleet, decision.choice.mix.systems, strict=True)
    used = [system for (system, _), n in chosen if n]
    rest = [(s.name, name, f) for s in used for name, f in figures(s) if name.startswith(PRICED)]
    inferred = [told_figure(s, name, f) for s, name, f in rest if f.confidence is Confidence.I]
    own = (*OWN_CONSTANTS, f"prefill pools busy at most = {BUSIEST:g}")
    return weakest(f for _, _, f in rest).value, (*inferred, *own)
