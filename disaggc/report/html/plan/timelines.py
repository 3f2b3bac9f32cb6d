"""One decode step over time, from the plan's stages and transfers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from disaggc.plans import Plan, Pool, head_pieces
from disaggc.report.console import amount, duration
from disaggc.report.html import schedule
from disaggc.report.html.views import ROLE_GROUPS, Bar, Lane, Timeline
from disaggc.report.prose import role_name
from disaggc.report.sharding import with_first_shards

ZOOMED = 40
"""Runs above which a step is also shown from near."""


def timelines(plan: Plan) -> tuple[Timeline, ...]:
    """One decode step in full, and a few of its layers from near where there are many."""
    plan = with_first_shards(plan)
    order = schedule.tasks(plan.decode, plan.pools, plan.model.layers)
    if not order:
        return ()
    runs = schedule.play(order, plan.schedule.micro_batches)
    start, end = schedule.window(runs)
    whole = _timeline(plan, runs, start, end, "One decode step")
    if len(whole.bars) <= ZOOMED:
        return (whole,)
    near = start + (end - start) * ZOOMED / 2 / len(whole.bars)
    return whole, _timeline(plan, runs, start, near, "The first layers of it, from near")


def _timeline(plan: Plan, runs: Sequence[schedule.Run], start: float, end: float, title: str) -> Timeline:
    lanes = _lanes(plan)
    index = {lane.name: k for k, lane in enumerate(lanes)}
    pieces = head_pieces(plan.decode.stages)
    bars = tuple(
        _bar(run, index[run.task.shown[0]], start, end, pieces)
        for run in runs
        if run.end > start and run.start < end
    )
    return Timeline(title, lanes, bars, end - start)


def _lanes(plan: Plan) -> tuple[Lane, ...]:
    pools = [Lane(pool.name, _lane_note(plan, pool), pool.parallelism.pp) for pool in plan.pools]
    links = dict.fromkeys(f"{t.source} to {t.target}" for t in plan.decode.transfers)
    return (*pools, *(Lane(name, is_link=True) for name in links))


def _lane_note(plan: Plan, pool: Pool) -> str:
    """How busy a pool is, and how much of that is prefill."""
    s = plan.schedule
    step = plan.prediction.tpot_us.conservative * s.tokens_per_step - s.overhead_us
    decode = decode_busy_us(plan, pool) / step if step > 0 else 0.0
    prefill = pool.utilisation - decode
    shown = f"busy {pool.utilisation:.0%}"
    return f"{shown}: decode {decode:.0%}, prefill {prefill:.0%}" if prefill >= 0.005 else shown


def decode_busy_us(plan: Plan, pool: Pool) -> float:
    """How long a decode step keeps the busiest pipeline rank of a pool, transfers included."""
    order = schedule.tasks(plan.decode, plan.pools, plan.model.layers)
    busy: dict[int, float] = defaultdict(float)
    for task in order:
        for name, rank in task.taken:
            if name == pool.name:
                busy[rank] += task.time_us * plan.schedule.micro_batches
    return max(busy.values(), default=0.0)


def _bar(run: schedule.Run, lane: int, start: float, end: float, pieces: Mapping[int, str]) -> Bar:
    task = run.task
    if task.transfer is not None:
        size = amount(task.transfer.bytes_per_token, "B")
        what = f"{task.transfer.source} to {task.transfer.target}, {size} a token"
        group = "link"
    else:
        piece = pieces.get(task.stage.index)
        what = _stage_name(task.stage.layers, task.stage.roles) + (f", {piece}" if piece else "")
        group = f"g-{main_group(task.stage.roles)}"
    tip = f"micro-batch {run.batch + 1}: {what}, {duration(run.end - run.start)}"
    return Bar(
        lane, task.shown[1], max(0.0, run.start - start), min(run.end, end) - start, run.batch, group, tip
    )


def _stage_name(layers: Sequence[int], roles: Sequence[str]) -> str:
    names = ", ".join(role_name(role) for role in roles)
    if not layers:
        return names
    return (
        f"layer{'s' if layers[0] != layers[-1] else ''} {'-'.join(map(str, dict.fromkeys(layers)))}: {names}"
    )


def main_group(roles: Sequence[str]) -> str:
    """The group that a stage is coloured by: attention, feed-forward, or whatever it has."""
    groups = [ROLE_GROUPS.get(role, "other") for role in roles]
    both = {"attention", "feed-forward"} <= set(groups)
    if both:
        return "both"
    return next(
        (g for g in ("attention", "feed-forward", "ends", "projections", "norms") if g in groups), "other"
    )
