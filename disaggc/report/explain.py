"""A plan for people: what went where and why, what else there was, what it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from disaggc.plans import Alternative, FleetOption, PhasePlan, Plan, Pool, Stage, head_pieces
from disaggc.report.console import amount, figure, table, wrapped
from disaggc.report.prose import paragraph
from disaggc.report.sharding import sharding_lines


def summary(plan: Plan) -> Iterator[RenderableType]:
    """The plan in a few lines: what ``disaggc compile`` prints."""
    p, s = plan.prediction, plan.schedule
    name, tier = escape(plan.model.name), escape(plan.goal.tier)
    yield f"[bold]{name}[/] for tier {tier}: [bold]{plan.mode}[/]"
    for pool in plan.pools:
        yield (
            f"  {pool.name}: {pool.devices} of {pool.available} {pool.device} "
            f"(tp {pool.parallelism.tp}, dp {pool.parallelism.dp}, pp {pool.parallelism.pp}); "
            f"{'; '.join(pool.roles)}"
        )
    yield (
        f"  {s.micro_batches} micro-batch{'es' if s.micro_batches > 1 else ''} of "
        f"{s.micro_batch:,} requests: {p.tokens_per_s.conservative:,.0f} tokens/s, "
        f"{p.tokens_per_s_per_user.conservative:,.0f} tokens/s/user "
        f"(asked: {plan.goal.tokens_per_s_per_user:,.0f}), "
        f"first token after {p.ttft_us.conservative / 1e3:,.1f} ms (asked: {plan.goal.ttft_ms:,.0f})"
    )
    if plan.fleets:
        best, *others = plan.fleets
        beside = next((f"; next, {o.fleet}: {figure(o.value)}" for o in others if o.value is not None), "")
        yield f"  on {best.fleet} of the fleet: {figure(best.value)} {best.unit}{beside}"
    yield f"  because {_why(plan)}"
    c = plan.certificate
    yield (
        f"  {c.status}: {c.candidates:,} configurations considered, {c.solved:,} cuts solved, "
        f"gap {c.gap:.0%}; "
        f"re-priced without the solver: {'agrees' if c.checked else 'DISAGREES'}"
    )
    yield f"  weakest number it rests on: {plan.weakest} ({MEANING[plan.weakest]}); see 'disaggc explain'"


MEANING = {
    "M": "measured on that machine",
    "V": "vendor-stated",
    "V2": "vendor-stated, second-hand",
    "P": "press or analyst",
    "I": "inferred",
}


def _why(plan: Plan) -> str:
    """The next best mode and what it loses."""
    chosen = next(a for a in plan.alternatives if a.chosen)
    others = [a for a in plan.alternatives if a.feasible and not a.chosen]
    if not others:
        return f"no other mode meets the tier; it is {chosen.reason}"
    best = others[0]
    return f"the next best, {best.mode}, gives up {best.loss or 0:.1%}; the plan is {chosen.reason}"


def explain(plan: Plan) -> Iterator[RenderableType]:
    """Everything that the plan knows of itself."""
    yield wrapped(paragraph(plan))
    yield ""
    yield from summary(plan)
    yield from (Text(f"  shared out: {line.strip()}") for line in sharding_lines(plan))
    yield ""
    yield _memory_table(plan.pools)
    yield ""
    yield from _phase(plan.decode, f"Decode, one micro-batch of {plan.schedule.micro_batch:,}")
    yield ""
    yield from _phase(plan.prefill, "Prefill, one prompt")
    yield ""
    yield _alternatives(plan.alternatives)
    if plan.fleets:
        yield ""
        yield _fleets(plan.fleets)
    if plan.rejections:
        yield ""
        yield "[bold]Rejected[/]"
        yield from (Text(f"  {text}") for text in plan.rejections)
    yield ""
    yield from _prediction(plan)
    yield ""
    sources = f"{len(plan.inferred)}; sources: disaggc targets NAME"
    yield f"[bold]Inferred numbers that this rests on[/] ({sources})"
    yield from (Text(f"  {text}") for text in folded(plan.inferred))


def _fleets(options: tuple[FleetOption, ...]) -> RenderableType:
    rows = [
        (
            option.fleet + (" (chosen)" if option.chosen else ""),
            "no plan" if option.tokens_per_s is None else f"{option.tokens_per_s:,.0f}",
            "" if option.value is None else figure(option.value),
        )
        for option in options
    ]
    return table("Parts of the fleet", ("systems", "tokens/s", options[0].unit), rows)


def _memory_table(pools: tuple[Pool, ...]) -> RenderableType:
    rows = []
    for pool in pools:
        m = pool.memory
        parts = (m.weights, m.kv, m.activations, m.reserve)
        rows.append(
            (
                f"{pool.name} {m.memory}",
                *(amount(part, "B") for part in parts),
                amount(m.capacity, "B"),
                f"{m.used / m.capacity:.0%}",
                f"{pool.utilisation:.0%}",
            )
        )
    columns = ("one device of", "weights", "cache", "activations", "reserve", "capacity", "full", "busy")
    return table("Memory map", columns, rows)


def _phase(phase: PhasePlan, title: str) -> Iterator[RenderableType]:
    """Stages; equal ones of many layers are one row."""
    groups: dict[tuple[object, ...], list[Stage]] = {}
    pieces = head_pieces(phase.stages)
    for stage in phase.stages:
        key = (stage.pool, stage.roles, f"{stage.time_us:.3g}", stage.bottleneck, stage.launches)
        groups.setdefault(key, []).append(stage)
    rows = []
    for stages in groups.values():
        first = stages[0]
        total = sum(stage.time_us for stage in stages)
        rows.append(
            (
                first.pool,
                ", ".join(first.roles) + (" in pieces" if first.index in pieces else ""),
                _layer_range(stages),
                len(stages),
                f"{first.time_us:,.1f}",
                f"{total:,.0f}",
                first.bottleneck,
            )
        )
    columns = ("pool", "does", "layers", "stages", "us each", "us", "bound by")
    yield table(title, columns, rows, left=2)
    if phase.transfers:
        each = phase.transfers[len(phase.transfers) // 2]
        moved = sum(t.bytes_per_token for t in phase.transfers)
        took = sum(t.time_us for t in phase.transfers)
        yield (
            f"  {len(phase.transfers)} transfers: {amount(each.bytes_per_token, 'B')} a token each "
            f"({each.time_us:,.1f} us), {amount(moved, 'B')} a token and {took:,.0f} us together"
        )
    else:
        yield "  no transfers between pools"


def _layer_range(stages: list[Stage]) -> str:
    touched = [layer for stage in stages for layer in stage.layers]
    if not touched:
        return ""
    return f"{min(touched)}-{max(touched)}" if min(touched) != max(touched) else str(touched[0])


def _alternatives(alternatives: tuple[Alternative, ...]) -> RenderableType:
    rows = [
        (
            ("> " if a.chosen else "  ") + a.mode,
            f"{a.tokens_per_s:,.0f}" if a.tokens_per_s is not None else "",
            f"{a.tpot_us:,.0f}" if a.tpot_us is not None else "",
            f"{a.micro_batches} x {a.batch:,}" if a.batch is not None else "",
            f"{a.loss:.1%}" if a.loss is not None else "no plan",
        )
        for a in alternatives
    ]
    return table("The best plan of each mode", ("mode", "tokens/s", "us/token", "in flight", "loses"), rows)


def _prediction(plan: Plan) -> Iterator[str]:
    p = plan.prediction
    yield "[bold]Prediction[/], transfers exposed to fully overlapped"
    yield f"  time per output token {p.tpot_us.conservative:,.0f} to {p.tpot_us.optimistic:,.0f} us"
    yield f"  tokens per second {p.tokens_per_s.conservative:,.0f} to {p.tokens_per_s.optimistic:,.0f}"
    yield (
        f"  time to first token {p.ttft_us.conservative / 1e3:,.1f} to {p.ttft_us.optimistic / 1e3:,.1f} ms, "
        f"without queueing"
    )
    yield f"  bottleneck: {p.bottleneck}"
    if p.tokens_per_s_per_mw is not None:
        yield f"  {p.tokens_per_s_per_mw:,.0f} tokens/s per MW"
    if p.revenue_usd_per_h:
        sold = f"at {plan.goal.price_usd_per_mtok:g} USD/Mtok"
        yield f"  {p.revenue_usd_per_h:,.0f} USD/h of output tokens {sold}"


def folded(inferred: tuple[str, ...]) -> list[str]:
    """Efficiencies of one device that agree become one line."""
    lines: dict[tuple[str, str], list[str]] = {}
    for text in inferred:
        name, _, value = text.partition(" = ")
        stem, _, leaf = name.rpartition(".")
        folds = ".efficiency." in name and name.count(".") > 2
        lines.setdefault((stem if folds else name, value), []).append(leaf)
    return [
        f"{stem} = {value}"
        if len(leaves) == 1 and not stem.endswith((".ec", ".em"))
        else f"{stem} of {', '.join(leaves)} = {value}"
        for (stem, value), leaves in lines.items()
    ]
