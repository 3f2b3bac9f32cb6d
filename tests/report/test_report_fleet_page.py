"""The page of a fleet: its tiers, machines and replicas, and each deployment by the sections of a plan."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from html_reading import HOSTILE, KNOWN, Page
from jobs import fleet_folder

from disaggc import cli
from disaggc.plans import FleetPlan, dump_plan, open_fleet, parse_fleet
from disaggc.report import fleet_page
from disaggc.report.html import fleet_views
from disaggc.report.html.fleet import shared_cells
from disaggc.report.html.views import Share


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fleet_folder(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def plan(folder: Path) -> FleetPlan:
    return open_fleet(folder)


@pytest.fixture(scope="module")
def text(plan: FleetPlan, folder: Path) -> str:
    return fleet_page(plan, folder, KNOWN)


def test_every_tier_machine_and_replica_is_shown(plan: FleetPlan, text: str) -> None:
    words = Page(text).text
    for tier in plan.tiers:
        assert f"Every mode for {tier.name}" in words
        assert all(mode.mode in words for mode in tier.modes)
    for use in plan.systems:
        assert (
            f"{use.used} of {use.available} used; {use.set_aside:,} of {use.devices:,}" in words
            or not use.used
        )
    for replica in plan.replicas:
        assert replica.name in words
        assert not replica.plan or f"{replica.name}: what sits where" in words


def test_devices_are_coloured_by_the_tier_that_has_them(plan: FleetPlan) -> None:
    for use, machine in zip((s for s in plan.systems if s.devices), fleet_views.machines(plan), strict=True):
        assert sum(share.devices for share in machine.shares) == use.set_aside
        assert machine.devices == use.devices


def test_cells_are_shared_in_order() -> None:
    shares = [Share(3, 1, "a"), Share(2, 2, "b")]
    kinds = re.findall(r'<rect[^>]*class="([^"]*)"', str(shared_cells(shares, 8, "x")))
    assert kinds == ["cell t1"] * 3 + ["cell t2"] * 2 + ["cell"] * 3


def test_anchors_are_unique_and_links_have_ends(text: str) -> None:
    tags = Page(text).tags
    anchors = [a["id"] for _, a in tags if "id" in a]
    assert len(anchors) == len(set(anchors))
    links = {str(a["href"])[1:] for tag, a in tags if tag == "a" and str(a["href"]).startswith("#")}
    assert links <= set(map(str, anchors))


def test_nothing_is_loaded_from_anywhere(text: str) -> None:
    assert not {tag for tag, _ in Page(text).tags} & {"script", "link", "img", "iframe"}


def test_hostile_names_are_escaped(plan: FleetPlan, folder: Path) -> None:
    told = json.dumps(HOSTILE)[1:-1].encode()
    renamed = parse_fleet(dump_plan(plan).replace(b"gtc2026/premium", told), "plan.json")
    made = Page(fleet_page(renamed, folder, KNOWN))
    assert not {"script", "img"} & {tag for tag, _ in made.tags}
    assert HOSTILE in made.text


def test_a_sentence_says_who_is_served_and_who_is_not(plan: FleetPlan) -> None:
    served = replace(plan.tiers[0], served_requests_per_s=3.0, requests_per_s=4.0, name="a")
    left = replace(plan.tiers[1], served_requests_per_s=0.0, name="b")
    told = fleet_views.sentence(replace(plan, tiers=(served, left)))
    assert told.endswith("serve a with 3 of 4 requests/s. b gets nothing.")
    assert fleet_views.sentence(replace(plan, tiers=(left,))) == "Nobody is served. b gets nothing."


def test_the_command_draws_a_fleet(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fleet.html"
    assert cli.main(["report", str(folder), "-o", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"Wrote {path}")
    assert "Fleet plan for 2 tiers" in path.read_text(encoding="utf-8")
