"""From the plan of a fleet to the views of its page."""

from __future__ import annotations

from collections.abc import Sequence

from disaggc.plans import FleetPlan, ReplicaPlan, TierPlan
from disaggc.report.console import amount, compact, dollars, duration, figure
from disaggc.report.fleet_questions import Fleet, fleet_what_binds, fleet_why
from disaggc.report.html.views import Answer, Fact, MachineUse, Share, Stat, Table, Verdict
from disaggc.report.prose import joined
from disaggc.report.questions import roles_of


def head(plan: FleetPlan) -> Verdict:
    """The head of the page: what is served, what it earns, and the proof."""
    e, c = plan.economics, plan.certificate
    stats = (
        Stat("output tokens/s", compact(e.tokens_per_s), f"{compact(e.tokens_per_s_per_mw)} per MW"),
        Stat("earned an hour", dollars(e.revenue_usd_per_h), "at the tiers' prices"),
        Stat("machines an hour", "unknown" if e.usd_per_h is None else dollars(e.usd_per_h), "of those used"),
        Stat("power", f"{e.power_kw:,.0f} kW", "of the systems used"),
    )
    then = f", then {plan.then}" if plan.then else ""
    proof = (
        f"{c.status.capitalize()} for {plan.objective}{then}: {c.candidates:,} patterns considered, gap "
        f"{c.gap:.2%}; audited without the solver: {'agrees' if c.checked else 'DISAGREES'}."
    )
    size = amount(plan.model.parameters, "")
    model = f"{plan.model.nodes:,} ops in {plan.model.layers} layers, {size} parameters."
    kicker = f"Fleet plan for {len(plan.tiers)} tiers"
    return Verdict(kicker, plan.model.name, sentence(plan), stats, (model, proof))


def sentence(plan: FleetPlan) -> str:
    """Who is served on what, and who is not."""
    used = joined([f"{s.used} {s.system}" for s in plan.systems if s.used] or ["no machine"])
    served = [_served(tier) for tier in plan.tiers if tier.served_requests_per_s > 0]
    left = [tier.name for tier in plan.tiers if tier.served_requests_per_s <= 0]
    told = f"{used} serve {joined(served)}." if served else "Nobody is served."
    return f"{told} {joined(left)} get{'s' if len(left) == 1 else ''} nothing." if left else told


def _served(tier: TierPlan) -> str:
    if tier.requests_per_s is None:
        return f"{tier.name} with {figure(tier.served_requests_per_s)} requests/s"
    return (
        f"{tier.name} with {figure(tier.served_requests_per_s)} of {figure(tier.requests_per_s)} requests/s"
    )


def tiers(plan: FleetPlan) -> Table:
    """What each asks for, gets, earns and costs."""
    rows = [
        (
            tier.name,
            "any" if tier.requests_per_s is None else figure(tier.requests_per_s),
            figure(tier.served_requests_per_s),
            f"{tier.tokens_per_s:,.0f}",
            f"{tier.tokens_per_s_per_user:,.0f}",
            dollars(tier.price_usd_per_mtok),
            dollars(tier.revenue_usd_per_h),
            "" if tier.usd_per_mtok_in is None else dollars(tier.usd_per_mtok_in),
            "" if tier.usd_per_mtok_out is None else dollars(tier.usd_per_mtok_out),
        )
        for tier in plan.tiers
    ]
    columns = (
        "tier",
        "asks req/s",
        "gets",
        "tokens/s",
        "at tokens/s/user",
        "price",
        "earns an hour",
        "in costs",
        "out costs",
    )
    return Table(columns, tuple(rows), tuple(range(1, len(columns))))


def machines(plan: FleetPlan) -> tuple[MachineUse, ...]:
    """Who has the devices of each kind of machine."""
    colours = {tier.name: k for k, tier in enumerate(plan.tiers)}
    found = []
    for use in plan.systems:
        if not use.devices:
            continue
        shares = [
            Share(
                group.devices * replica.replicas,
                colours.get(replica.tier, 0),
                f"{replica.name}: {group.devices * replica.replicas:,} for {group.part}",
            )
            for replica in sorted(plan.replicas, key=lambda r: colours.get(r.tier, 0))
            for group in replica.groups
            if group.system == use.system
        ]
        cost = "no price is declared" if use.usd_per_h is None else f"{dollars(use.usd_per_h)} an hour"
        told = (
            f"{use.used} of {use.available} used; {use.set_aside:,} of {use.devices:,} devices set aside; "
            f"{use.power_kw:,.0f} kW, {cost}; {'; '.join(use.roles)}."
        )
        found.append(MachineUse(use.system, told, use.devices, tuple(shares)))
    return tuple(found)


def replicas(plan: FleetPlan) -> Table:
    """What runs."""
    columns = ("replica", "of them", "each on", "in flight", "takes", "used")
    return Table(columns, tuple(_replica(replica) for replica in plan.replicas), (1, 3, 4, 5))


def _replica(r: ReplicaPlan) -> tuple[str, ...]:
    groups = [f"{g.devices} {g.system}" + (f" for {g.part}" if len(r.groups) > 1 else "") for g in r.groups]
    took = f"{duration(r.step_us)} a step" if r.step_us else f"{duration(r.ttft_us)} to first"
    flying = f"{r.micro_batches} x {r.micro_batch:,}" if r.micro_batch else ""
    return (
        r.name,
        f"{r.replicas:,}",
        f"{r.form}: {' + '.join(groups)}",
        flying,
        took,
        f"{r.utilisation:.0%}",
    )


def answers(fleet: Fleet) -> tuple[Answer, ...]:
    """What binds each tier, and why its parts are where they are."""
    return tuple(_answer(fleet, tier) for tier in fleet.plan.tiers)


def _answer(fleet: Fleet, tier: TierPlan) -> Answer:
    short, *more = fleet_what_binds(fleet, tier)
    asked = [("What binds it", tuple(more))]
    for part, name in (("attention", "Why attention is there"), ("ffn", "Why the feed-forward is there")):
        if any(roles_of(plan, part) for plan in fleet.deployed.values()):
            asked.append((name, tuple(fleet_why(fleet, tier, part))))
    names = [replica.name for replica in fleet.replicas(tier)]
    return Answer(short, tuple((question, _paragraphs(told, names)) for question, told in asked if told))


def _paragraphs(told: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Sentences about one replica as one paragraph that names it once; others as they are."""
    found: dict[str, str] = {}
    for line in told:
        name, _, rest = line.partition(": ")
        known = name in names
        key = name if known else line
        found[key] = f"{found[key]} {rest}" if known and key in found else line
    return tuple(found.values())


def money(plan: FleetPlan) -> tuple[Fact, ...]:
    """What the fleet earns and takes."""
    e = plan.economics
    facts = [Fact("revenue an hour", dollars(e.revenue_usd_per_h), "of output tokens")]
    if e.usd_per_h is not None:
        facts.append(Fact("machines an hour", dollars(e.usd_per_h), "of the systems used"))
        margin = e.revenue_usd_per_h - e.usd_per_h
        facts.append(Fact("margin an hour", dollars(margin), "revenue less machines"))
    freed = e.hbm_freed_bytes
    if freed:
        told = "for caches beside the best colocated patterns on as many devices"
        facts.append(Fact("memory " + ("freed" if freed > 0 else "given up"), amount(abs(freed), "B"), told))
    return tuple(facts)


def break_even(plan: FleetPlan) -> Table:
    """From which price a machine pays in each tier."""
    rows = [
        (
            f"{one.count} x {one.system}",
            one.tier,
            f"{one.added_tokens_per_s:,.0f}",
            "adds nothing" if one.usd_per_mtok is None else dollars(one.usd_per_mtok),
        )
        for one in plan.break_even
    ]
    return Table(("machine", "in tier", "adds tokens/s", "pays from, a million tokens"), tuple(rows), (2, 3))


def modes(tier: TierPlan) -> Table:
    """Every mode of a tier, and what rules it out or its best pattern."""
    rows = [
        (
            mode.mode,
            "runs" if mode.chosen else "works" if mode.feasible else "no",
            f"{mode.tokens_per_s_per_kw:,.1f}" if mode.tokens_per_s_per_kw is not None else "",
            f"{mode.considered:,}",
            mode.reason,
        )
        for mode in tier.modes
    ]
    columns = ("mode", "", "tokens/s/kW", "patterns", "best pattern, or why not")
    strong = next((k for k, mode in enumerate(tier.modes) if mode.chosen), None)
    return Table(columns, tuple(rows), (2, 3), strong)
