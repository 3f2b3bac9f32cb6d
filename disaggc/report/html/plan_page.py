"""The page of one plan, and its sections for pages of many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from disaggc.plans import Plan
from disaggc.report.html import page as pages
from disaggc.report.html import plan as views
from disaggc.report.html.page import Section, page
from disaggc.report.html.tables import Machine, read_machines, read_op_classes
from disaggc.targets import Source


def plan_page(plan: Plan, folder: Path, known: Mapping[str, Source]) -> str:
    """The page of one plan.

    Args:
        plan: What ``open_plan(folder)`` returned.
        folder: The plan folder.
        known: Declared sources by tag, for their titles and addresses.

    Raises:
        PlanError: A table of the folder is missing.
    """
    made_by = f"disaggc {plan.compiler}"
    return page(views.verdict_view(plan), list(plan_sections(plan, folder, known)), made_by)


def plan_sections(plan: Plan, folder: Path, known: Mapping[str, Source]) -> Iterator[Section]:
    """The sections of one plan, for a page of its own or one of many."""
    machines = read_machines(folder)
    yield from what_and_when(plan, folder)
    if plan.frontier:
        yield pages.pareto_section(views.pareto(plan), _pareto_lead(plan))
    yield pages.facts_section(
        "economics", "Economics", f"Of tier {plan.goal.tier}, at full load.", views.money(plan, machines)
    )
    if len(plan.alternatives) > 1:
        yield pages.table_section("modes", "Every mode's best plan", MODES, views.modes(plan))
    yield from _others(plan)
    yield sources_section(plan.inferred, {pool.system for pool in plan.pools}, machines, known)


def what_and_when(plan: Plan, folder: Path) -> Iterator[Section]:
    """What sits where, one step in time, and rooflines: what a page of many deployments shows of each."""
    yield pages.fleet_section(views.fleet_view(plan, read_machines(folder)))
    yield from _drawn(plan, folder)


def sources_section(
    inferred: Sequence[str], used: set[str], machines: Mapping[str, Machine], known: Mapping[str, Source]
) -> Section:
    """Every hardware number, those of used machines first, and the cost model's own constants."""
    constants = [line for line in inferred if line.partition(" ")[0] not in machines]
    return pages.sources_section(views.sources(used, machines, known), constants, SOURCES)


MODES = "The best plan of each way to serve this model on this fleet, for the same tier."
SOURCES = (
    "Every hardware number that this plan was priced with, as it was declared then, with its source, date "
    "and confidence. Intervals are what sources disagree by, or what was inferred."
)
ROOFLINE = (
    "What one device of each pool can do, and what its work comes to by the cost model: launches, layer "
    "latency, collectives and efficiencies keep roles below the roof. A micro-batch in decode, a prompt in "
    "prefill."
)
MOVES = "Each role of decode on another pool, everything else as planned: why it is where it is."


def _drawn(plan: Plan, folder: Path) -> Iterator[Section]:
    """One step in time, and rooflines, as far as the plan has what they need."""
    steps = views.timelines(plan)
    if steps:
        yield pages.timeline_section(steps, _step_lead(plan))
    roofs = views.rooflines(plan, read_machines(folder), read_op_classes(folder))
    if roofs:
        yield pages.roofline_section(roofs, ROOFLINE)


def _step_lead(plan: Plan) -> str:
    s = plan.schedule
    many = s.micro_batches > 1
    going = (
        f"{s.micro_batches} micro-batches of {s.micro_batch:,} requests go round in ping-pong"
        if many
        else (f"One micro-batch of {s.micro_batch:,} requests goes through all stages")
    )
    return (
        f"{going}; stages and transfers take what the plan predicts, each as early as its pool and link are "
        f"free. "
        f"A step takes {plan.prediction.tpot_us.conservative * s.tokens_per_step:,.0f} us with prefill and "
        f"{s.overhead_us:,.0f} us of engine overhead, which are not drawn."
    )


def _pareto_lead(plan: Plan) -> str:
    chosen = next(a.mode for a in plan.alternatives if a.chosen)
    return (
        f"Each mode's cut at other batches and degrees of parallelism. Rings are the modes' best plans for "
        f"the tier; the large one is the choice, {chosen}, made for {plan.certificate.objective}."
    )


def _others(plan: Plan) -> Iterator[Section]:
    """What else there was."""
    if plan.fleets:
        lead = f"What each part of the fleet comes to, by {plan.fleets[0].unit}."
        yield pages.table_section("parts", "Parts of the fleet", lead, views.fleets_table(plan))
    if any(move.phase == "decode" for move in plan.moves):
        yield pages.table_section("moves", "One role elsewhere", MOVES, views.moves_table(plan))
    rejected = views.rejections(plan)
    if rejected:
        yield pages.rejections_section(rejected, "Ways to serve it that have no plan for this tier, and why.")
