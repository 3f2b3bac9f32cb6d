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
from disaggc.commands.arguments import opened_fleet
from disaggc.plans import FleetPlan, dump_plan, open_fleet, parse_fleet
from disaggc.report import fleet_page, fleet_what_binds, fleet_why, sweep_page
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


def test_the_page_answers_what_binds_each_tier_and_why_its_parts_are_there(folder: Path, text: str) -> None:
    fleet, words = opened_fleet(folder), " ".join(Page(text).text.split())
    for tier in fleet.plan.tiers:
        short, *more = fleet_what_binds(fleet, tier)
        assert short in words
        for line in (*more, *fleet_why(fleet, tier, "attention"), *fleet_why(fleet, tier, "ffn")):
            name, _, rest = line.partition(": ")
            told = rest if name in fleet.deployed else line
            assert " ".join(told.split()) in words


def test_sentences_about_one_replica_are_one_paragraph_that_names_it_once() -> None:
    told = ("a-1: One.", "a-1: Two: three.", "Decoded on x: no.", "a-2: Four.", "a-1: Five.")
    assert fleet_views._paragraphs(told, ["a-1", "a-2"]) == (
        "a-1: One. Two: three. Five.",
        "Decoded on x: no.",
        "a-2: Four.",
    )


RATES = {"tokens_per_s": 5.0, "tokens_per_s_per_mw": 1.0, "requests_per_s": {"t": 1.0}}
MONEY = {"goal": "cost", "unit": "USD/h", "revenue_usd_per_h": 1.0, "usd_per_h": 2.0}
ROWS = [{"value": n, "systems": {"x": n}, "objective": 10.0 / n, **RATES, **MONEY} for n in (1, 2)]


def test_a_sweep_of_a_fleet_is_headed_by_its_objective() -> None:
    cheap = Page(sweep_page("x", [*ROWS, {"value": 3, "reason": "none fits"}], "made")).text
    assert "The best cost, 5 USD/h, is at x = 2." in cheap and "no plan: none fits" in cheap
    rich = [{**row, "goal": "revenue"} for row in ROWS]
    assert "The best revenue, 10 USD/h, is at x = 1." in Page(sweep_page("x", rich, "made")).text


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
