"""The page of a fleet: its tiers and machines, then each deployment by the sections of an ordinary plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from disaggc.plans import FleetPlan, Plan, ReplicaPlan, open_plan
from disaggc.report.fleet_questions import Fleet
from disaggc.report.html import fleet_views
from disaggc.report.html import page as pages
from disaggc.report.html.page import Section, page
from disaggc.report.html.plan_page import sources_section, what_and_when
from disaggc.report.html.tables import Machine, read_machines
from disaggc.targets import Source

TIERS = "What each tier asks for and gets. Costs are dollars of the machines' time for a million tokens."
MACHINES = "Every device of the machines that are used, by the tier that it serves."
RUNS = "Each kind of replica, and how many of it run."
ANSWERS = "What each tier is limited by, and why its attention and feed-forward are where they are."
PAYS = "From which price of a million output tokens a machine pays for itself, if the fleet served that tier."


def fleet_page(plan: FleetPlan, folder: Path, known: Mapping[str, Source]) -> str:
    """The page of a fleet.

    Args:
        plan: What ``open_fleet(folder)`` returned.
        folder: The fleet's folder.
        known: Declared sources by tag, for their titles and addresses.

    Raises:
        PlanError: A deployment or a table of it is missing or was changed.
    """
    sections = list(_sections(plan, folder, known))
    return page(fleet_views.head(plan), sections, f"disaggc {plan.compiler}")


def _sections(plan: FleetPlan, folder: Path, known: Mapping[str, Source]) -> Iterator[Section]:
    tiers = [tier.name for tier in plan.tiers]
    yield pages.table_section("tiers", "Tiers", TIERS, fleet_views.tiers(plan))
    yield pages.machines_section(fleet_views.machines(plan), tiers, MACHINES)
    yield pages.table_section("replicas", "What runs", RUNS, fleet_views.replicas(plan))
    fleet = Fleet(plan, {r.name: open_plan(folder / r.plan) for r in plan.replicas if r.plan})
    yield pages.answers_section("answers", "What binds, and why here", ANSWERS, fleet_views.answers(fleet))
    yield pages.facts_section("economics", "Economics", "Of the whole fleet.", fleet_views.money(plan))
    if plan.break_even:
        yield pages.table_section("pays", "What a machine must earn", PAYS, fleet_views.break_even(plan))
    known_machines: dict[str, Machine] = {}
    inferred: dict[str, None] = {}
    for replica in plan.replicas:
        if replica.plan:
            deployed = fleet.deployed[replica.name]
            known_machines.update(read_machines(folder / replica.plan))
            inferred.update(dict.fromkeys(deployed.inferred))
            yield from _deployment(replica, deployed, folder / replica.plan)
    yield from _modes(plan)
    used = {use.system for use in plan.systems if use.used}
    yield sources_section(tuple(inferred), used, known_machines, known)


def _modes(plan: FleetPlan) -> Iterator[Section]:
    """A table of every mode for each tier."""
    for k, tier in enumerate(plan.tiers):
        lead = f"{tier.reason[:1].upper()}{tier.reason[1:]}."
        title = f"Every mode for {tier.name}"
        made = pages.table_section(f"modes-{_anchor(tier.name)}", title, lead, fleet_views.modes(tier))
        yield replace(made, link="" if k else "Every mode")


def _deployment(replica: ReplicaPlan, plan: Plan, folder: Path) -> Iterator[Section]:
    """The sections of a deployment, named after it."""
    many = f"{replica.replicas} of them" if replica.replicas > 1 else "one of them"
    lead = f"For {replica.tier}: {plan.mode}; {many}, each used {replica.utilisation:.0%}."
    for k, section in enumerate(what_and_when(plan, folder)):
        yield replace(
            section,
            anchor=f"{_anchor(replica.name)}-{section.anchor}",
            title=f"{replica.name}: {section.title[:1].lower()}{section.title[1:]}",
            lead=lead if k == 0 else section.lead,
            link=replica.name if k == 0 else "",
        )


def _anchor(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)
