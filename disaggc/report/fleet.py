"""The plan of a fleet for people: what each tier gets, what runs where, what it earns, and why."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from disaggc.plans import BreakEven, Change, FleetPlan, ReplicaPlan, SystemUse, TierPlan
from disaggc.report.console import amount, figure, table
from disaggc.report.explain import MEANING, folded


def fleet_summary(plan: FleetPlan) -> Iterator[RenderableType]:
    """What ``disaggc compile`` prints for tiers that share a fleet."""
    used = " + ".join(f"{s.used} {s.system}" for s in plan.systems if s.used)
    yield f"[bold]{escape(plan.model.name)}[/] for {len(plan.tiers)} tiers on {used}: {_value(plan)}"
    yield _tiers(plan.tiers)
    yield _replicas(plan.replicas)
    yield _systems(plan.systems)
    yield from _money(plan)
    yield from _changes(plan)
    c = plan.certificate
    yield (
        f"{c.status}: {c.candidates:,} patterns considered, {c.solved:,} exact solves, gap {c.gap:.2%}; "
        f"audited without the solver: {'agrees' if c.checked else 'DISAGREES'}"
    )
    yield f"weakest number it rests on: {plan.weakest} ({MEANING[plan.weakest]}); see 'disaggc explain'"


def _value(plan: FleetPlan) -> str:
    then = f", then {plan.then}" if plan.then else ""
    return f"[bold]{figure(plan.value)} {plan.unit}[/] ({plan.objective}{then})"


def _tiers(tiers: tuple[TierPlan, ...]) -> RenderableType:
    rows = [
        (
            tier.name,
            "any" if tier.requests_per_s is None else figure(tier.requests_per_s),
            figure(tier.served_requests_per_s),
            f"{tier.tokens_per_s:,.0f}",
            f"{tier.tokens_per_s_per_user:,.0f}",
            figure(tier.price_usd_per_mtok),
            f"{tier.revenue_usd_per_h:,.0f}",
            figure(tier.usd_per_mtok_in),
            figure(tier.usd_per_mtok_out),
        )
        for tier in tiers
    ]
    columns = ("tier", "asks/s", "gets/s", "tokens/s", "per user", "sells at", "USD/h", "in", "out")
    title = "Tiers: requests asked and got, what an Mtok sells at, and what prompts and answers cost"
    return table(title, columns, rows)


def _replicas(replicas: tuple[ReplicaPlan, ...]) -> RenderableType:
    rows = []
    for r in replicas:
        speed = f"{r.step_us / 1e3:,.2f} ms a step" if r.step_us else f"{r.ttft_us / 1e3:,.0f} ms to first"
        flying = f"{r.micro_batches} x {r.micro_batch:,}" if r.micro_batch else ""
        rows.append(
            (r.name, r.replicas, f"{r.form}: {group_words(r)}", flying, speed, f"{r.utilisation:.0%}")
        )
    columns = ("replica", "of them", "each on", "in flight", "takes", "used")
    return table("What runs", columns, rows, left=1)


def group_words(replica: ReplicaPlan) -> str:
    """The devices of one replica: '24 vr-nvl72 attention + 768 groq3-lpx ffn'."""
    parted = len(replica.groups) > 1
    return " + ".join(f"{g.devices} {g.system}{f' {g.part}' if parted else ''}" for g in replica.groups)


def _systems(systems: tuple[SystemUse, ...]) -> RenderableType:
    rows = [
        (
            s.system,
            f"{s.used} of {s.available}",
            f"{s.set_aside:,} of {s.devices:,}",
            f"{s.power_kw:,.0f}",
            figure(s.usd_per_h),
            s.weakest,
        )
        for s in systems
    ]
    return table("Machines", ("system", "used", "devices set aside", "kW", "USD/h", "weakest"), rows)


def _money(plan: FleetPlan) -> Iterator[str]:
    e = plan.economics
    cost = (
        "at machines without a price" if e.usd_per_h is None else f"on {e.usd_per_h:,.0f} USD/h of machines"
    )
    yield (
        f"{e.revenue_usd_per_h:,.0f} USD/h of output tokens {cost}; {e.tokens_per_s:,.0f} tokens/s, "
        f"{e.tokens_per_s_per_mw:,.0f} per MW of {e.power_kw:,.0f} kW"
    )
    if e.hbm_freed_bytes > 0:
        yield f"{amount(e.hbm_freed_bytes, 'B')} more for caches than the best colocated patterns leave"


def pays(one: BreakEven) -> str:
    """One break-even price as a sentence."""
    what = one.system if one.count == 1 else f"{one.count} x {one.system}"
    if one.usd_per_mtok is None:
        return f"{what} adds nothing to {one.tier}"
    return (
        f"{what} pays from {figure(one.usd_per_mtok)} USD per Mtok in {one.tier} "
        f"(adds {one.added_tokens_per_s:,.0f} tokens/s there)"
    )


def _changes(plan: FleetPlan) -> Iterator[str]:
    if plan.kept and not plan.changes:
        yield "Nothing changes from the plan that was to be kept."
    for change in plan.changes:
        yield _change(change, plan.unit)


def _change(change: Change, unit: str) -> str:
    gain = None if change.worth is None else f"worth {figure(change.worth)} {unit}"
    worth = gain or "without it nothing works"
    return f"{change.tier}: {change.before} -> {change.after} of {change.replica} ({worth})"


def fleet_explain(plan: FleetPlan) -> Iterator[RenderableType]:
    """Everything that a fleet's plan knows of itself."""
    yield from fleet_summary(plan)
    yield ""
    yield "[bold]What each machine pays for[/]"
    yield from (Text(f"  {pays(one)}") for one in plan.break_even)
    for tier in plan.tiers:
        yield ""
        yield from _modes(tier)
    yield ""
    sources = f"{len(plan.inferred)}; sources: disaggc targets NAME"
    yield f"[bold]Inferred numbers that this rests on[/] ({sources})"
    yield from (Text(f"  {text}") for text in folded(plan.inferred))


def _modes(tier: TierPlan) -> Iterator[RenderableType]:
    yield f"[bold]{escape(tier.name)}[/]: {escape(tier.reason)}"
    for mode in tier.modes:
        mark = ">" if mode.chosen else " " if mode.feasible else "x"
        yield Text(f"  {mark} {mode.mode}: {mode.reason}")
