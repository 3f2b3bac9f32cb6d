"""Composes sections into one self-contained page."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from disaggc.library import shelf
from disaggc.report.console import amount, figure
from disaggc.report.html import fleet, gantt, pareto, roofline
from disaggc.report.html.views import (
    GROUP_TITLES,
    ROLE_GROUPS,
    Answer,
    Fact,
    FleetPicture,
    MachineUse,
    Pareto,
    Rejection,
    Roofline,
    Sources,
    Table,
    Timeline,
    Verdict,
)

WIDE, HALF, NARROW = 960.0, 464.0, 340.0
"""Every chart is drawn twice, for a laptop and for a phone, so that its text is never scaled down."""


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of a page.

    Attributes:
        anchor: Its name in links, unique on the page.
        lead: What it says, in a sentence.
        body: Markup.
        link: What the list of sections calls it; '' leaves it out; default: its title.
    """

    anchor: str
    title: str
    lead: str
    body: Markup
    link: str | None = None


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(shelf("plans") / "templates" / "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["amount"] = amount
    environment.filters["figure"] = figure
    environment.filters["weblink"] = lambda url: url if url.startswith(("https://", "http://")) else ""
    return environment


def render(name: str, **values: object) -> Markup:
    """A template of plans/templates/report, filled in; values are escaped."""
    return Markup(_environment().get_template(name).render(**values))  # noqa: S704 - autoescape is on


def page(verdict: Verdict, sections: Sequence[Section], made_by: str) -> str:
    """The whole document."""
    return str(render("page.html.j2", verdict=verdict, sections=sections, made_by=made_by))


def both(draw: Callable[[float], Markup], wide: float = WIDE) -> Markup:
    """A drawing for wide and one for narrow windows; one of them is shown."""
    return render("both.html.j2", wide=draw(wide), narrow=draw(NARROW))


# Sections --------------------------------------------------------------------------------------


def fleet_section(view: FleetPicture, anchor: str = "fleet") -> Section:
    """Pools, what sits there, and how full they are."""
    cards = [
        (
            pool,
            fleet.device_cells(pool.devices, pool.available, pool.device),
            fleet.memory_bar(pool.parts, pool.capacity),
        )
        for pool in view.pools
    ]
    body = render("fleet.html.j2", view=view, cards=cards)
    return Section(
        anchor, "What sits where", "Each pool, what it does, and one of its devices' memory.", body
    )


def machines_section(machines: Sequence[MachineUse], tiers: Sequence[str], lead: str) -> Section:
    """Every device of the machines that are used, in the colour of the tier that it serves."""
    drawn = [(one, fleet.shared_cells(one.shares, one.devices, one.system)) for one in machines]
    body = render("machines.html.j2", drawn=drawn, tiers=tiers)
    return Section("machines", "Who has which machine", lead, body)


def timeline_section(views: Sequence[Timeline], lead: str, anchor: str = "timeline") -> Section:
    """When each pool and link is busy."""
    charts = [(view, both(functools.partial(gantt.draw, view))) for view in views]
    groups = {bar.group for view in views for bar in view.bars}
    batches = 1 + max((bar.batch for view in views for bar in view.bars), default=0)
    body = render(
        "timeline.html.j2", charts=charts, groups=groups, titles=GROUP_TITLES, batches=min(batches, 4)
    )
    return Section(anchor, "One step in time", lead, body)


def roofline_section(views: Sequence[Roofline], lead: str, anchor: str = "roofline") -> Section:
    """Roles and kinds of ops against what a device can do."""
    wide = HALF if len(views) > 1 else WIDE
    charts = [(view, both(functools.partial(roofline.draw, view), wide)) for view in views]
    body = render("roofline.html.j2", charts=charts, titles=GROUP_TITLES, group_of=_group_of)
    return Section(anchor, "Roofline", lead, body)


def _group_of(role: str) -> str:
    return ROLE_GROUPS.get(role, "other")


def pareto_section(view: Pareto, lead: str, anchor: str = "frontier") -> Section:
    """Speed against efficiency."""
    body = render("pareto.html.j2", view=view, chart=both(functools.partial(pareto.draw, view)))
    return Section(anchor, "Speed against efficiency", lead, body)


def table_section(anchor: str, title: str, lead: str, table: Table) -> Section:
    """A table."""
    return Section(anchor, title, lead, render("table.html.j2", table=table))


def answers_section(anchor: str, title: str, lead: str, answers: Sequence[Answer]) -> Section:
    """A sentence for each of several things, and what opens below it."""
    return Section(anchor, title, lead, render("answers.html.j2", answers=answers))


def facts_section(anchor: str, title: str, lead: str, facts: Sequence[Fact]) -> Section:
    """Facts one under another."""
    return Section(anchor, title, lead, render("facts.html.j2", facts=facts))


def rejections_section(rejections: Sequence[Rejection], lead: str, anchor: str = "rejected") -> Section:
    """What has no plan, and why."""
    return Section(anchor, "Rejected", lead, render("rejections.html.j2", rejections=rejections))


def sources_section(
    systems: Sequence[Sources], constants: Sequence[str], lead: str, anchor: str = "sources"
) -> Section:
    """Every hardware number with where it comes from."""
    body = render("sources.html.j2", systems=systems, constants=constants, meanings=MEANINGS)
    return Section(anchor, "Where the numbers come from", lead, body)


MEANINGS = {
    "M": "measured here",
    "V": "vendor",
    "V2": "vendor, second-hand",
    "P": "press or analyst",
    "I": "inferred",
}
