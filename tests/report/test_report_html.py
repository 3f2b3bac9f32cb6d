"""The page of a plan without a browser: its numbers are the plan's, and names stay names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest
from html_reading import HOSTILE, KNOWN, Page
from jobs import tiny_plan

from disaggc import cli
from disaggc.errors import OutputError, PlanError
from disaggc.plans import Plan, dump_plan, open_plan, parse_plan
from disaggc.report import plan_page, write_page
from disaggc.report.economics import Hourly, economics, systems_used
from disaggc.report.html import plan as views
from disaggc.report.html import plan_sections, schedule
from disaggc.report.html.page import page
from disaggc.report.html.tables import read_machines, read_op_classes
from disaggc.targets import load_library

GOLDEN = Path(__file__).resolve().parents[2] / "plans" / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return open_plan(folder)


@pytest.fixture(scope="module")
def golden() -> Callable[[str], Plan]:
    return lambda name: parse_plan((GOLDEN / name / "plan.json").read_bytes(), name)


@pytest.fixture(scope="module")
def text(plan: Plan, folder: Path) -> str:
    return plan_page(plan, folder, KNOWN)


# Self-contained -----------------------------------------------------------------------------------


def test_nothing_is_loaded_from_anywhere(text: str) -> None:
    tags = Page(text).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for tag, attributes in tags:
        assert not attributes.keys() & {"src", "srcset", "data", "action", "poster"}, tag
        assert "href" not in attributes or tag == "a"
    assert "url(" not in text
    assert "@import" not in text
    policy = [a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_every_link_within_the_page_has_an_end(text: str) -> None:
    tags = Page(text).tags
    anchors = {a["id"] for _, a in tags if "id" in a}
    inner = [a["href"] for tag, a in tags if tag == "a" and str(a["href"]).startswith("#")]
    assert len(inner) >= 8
    assert {str(href)[1:] for href in inner} == anchors


def test_the_same_plan_gives_the_same_page(plan: Plan, folder: Path, text: str) -> None:
    assert plan_page(plan, folder, KNOWN) == text


@pytest.mark.parametrize(
    "named", ["qwen3_moe.gqa_moe", "gtc2026/premium", "vr-nvl72", "rubin", "AFD: attention on"]
)
def test_hostile_names_are_escaped(named: str, plan: Plan, folder: Path) -> None:
    told = json.dumps(HOSTILE)[1:-1].encode()
    renamed = parse_plan(dump_plan(plan).replace(named.encode(), told), "plan.json")
    made = plan_page(renamed, folder, KNOWN)
    parsed = Page(made)
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert HOSTILE in unescape(made)


def test_an_address_that_is_no_web_address_is_no_link(plan: Plan, folder: Path) -> None:
    bad = {tag: replace(source, url="javascript:alert(1)") for tag, source in KNOWN.items()}
    made = plan_page(plan, folder, bad)
    assert "javascript:" not in made
    assert 'href="https://' in plan_page(plan, folder, KNOWN)


# The plan's numbers -------------------------------------------------------------------------------


def test_the_head_says_what_was_asked_and_what_comes_out(plan: Plan, text: str) -> None:
    words, p = Page(text).text, plan.prediction
    assert f"{p.tokens_per_s_per_user.conservative:,.0f}" in words
    assert f"asked: {plan.goal.tokens_per_s_per_user:,.4g}" in words
    assert f"asked: {plan.goal.ttft_ms:,.4g} ms" in words
    assert f"{plan.certificate.candidates:,} configurations considered" in words
    assert text.count('class="met"') == 2


def test_a_missed_demand_is_marked(plan: Plan, folder: Path) -> None:
    missed = replace(plan, goal=replace(plan.goal, tokens_per_s_per_user=1e6))
    assert 'class="missed"' in plan_page(missed, folder, KNOWN)


def test_every_pool_shows_its_memory_and_duties(plan: Plan, folder: Path) -> None:
    picture = views.fleet_view(plan, read_machines(folder))
    for pool, card in zip(plan.pools, picture.pools, strict=True):
        assert sum(part.bytes for part in card.parts) == pytest.approx(pool.memory.used)
        assert card.busy == pool.utilisation
        assert [phase for phase, _ in card.duties] == [role.partition(":")[0] for role in pool.roles]


def test_a_system_that_is_not_used_is_named(plan: Plan, folder: Path) -> None:
    alone = replace(plan, pools=plan.pools[:1])
    unused = views.fleet_view(alone, read_machines(folder)).unused
    assert unused == ("1 x NVIDIA Groq 3 LPX rack (groq3-lpx)",)


def test_a_pool_may_be_called_otherwise_than_its_system(plan: Plan, folder: Path) -> None:
    """As where two pools are of one system: attention on one half of a rack, prefill on the other."""
    told = dump_plan(plan).replace(b'"vr-nvl72"', b'"attention"').replace(b'"groq3-lpx"', b'"experts"')
    named = parse_plan(told, "plan.json")
    systems = [pool.system for pool in plan.pools]
    pools = tuple(replace(p, system=s) for p, s in zip(named.pools, systems, strict=True))
    named = replace(named, pools=pools)
    words = Page(plan_page(named, folder, KNOWN)).text
    assert "Vera Rubin NVL72 rack" in words
    assert "attention, one rubin: hbm at 22 TB/s" in words
    assert views.money(named, read_machines(folder)) == views.money(plan, read_machines(folder))


def test_every_priced_op_is_in_a_roofline(plan: Plan, folder: Path) -> None:
    ops = read_op_classes(folder)
    roofs = views.rooflines(plan, read_machines(folder), ops)
    assert {roof.pool for roof in roofs} == set(ops)
    for roof in roofs:
        by_role = {(p.phase, p.role): p for p in roof.points}
        for (phase, role), point in by_role.items():
            kinds = [op for op in roof.ops if (op.phase, op.role) == (phase, role)]
            flops, moved = sum(op.flops for op in kinds), sum(op.bytes for op in kinds)
            assert point.intensity == pytest.approx(flops / moved, rel=1e-6)
            assert point.flops_per_s <= max(r.flops_per_s for r in roof.roofs)


def test_modes_and_rejections_are_all_there(plan: Plan, text: str) -> None:
    words = Page(text).text
    for alternative in plan.alternatives:
        assert alternative.mode in words
        assert alternative.reason.removeprefix("limited because ")[1:] in words


def test_a_frontier_belongs_to_each_mode_that_has_a_plan(plan: Plan) -> None:
    pareto = views.pareto(plan)
    assert [s.name for s in pareto.series if s.chosen] == [plan.mode]
    assert {s.name for s in pareto.series} == {a.mode for a in plan.alternatives if a.feasible}
    assert sum(len(s.points) for s in pareto.series) == len(plan.frontier)


def test_every_figure_of_the_machines_is_shown_with_its_source(text: str, folder: Path) -> None:
    words = Page(text).text
    for machine in read_machines(folder).values():
        for name, figure in machine.figures.items():
            if ".sparse." not in name and "both_ways" not in name:
                assert name in words
                assert figure.source in words


def test_numbers_in_the_text_of_a_page_are_finite(text: str) -> None:
    assert not re.search(r"\b(nan|inf|None)\b", Page(text).text)


# Time ---------------------------------------------------------------------------------------------


def test_a_played_step_of_a_plan_bound_by_latency_is_its_path(golden: Callable[[str], Plan]) -> None:
    plan = golden("llama3_70b")
    order = schedule.tasks(plan.decode, plan.pools, plan.model.layers)
    start, end = schedule.window(schedule.play(order, plan.schedule.micro_batches))
    assert "path" in plan.prediction.bottleneck
    assert end - start == pytest.approx(plan.prediction.path_us, rel=1e-3)


@pytest.mark.parametrize("name", ["tiny_moe", "qwen3_235b", "llama3_70b"])
def test_no_resource_does_two_things_at_once(name: str, golden: Callable[[str], Plan]) -> None:
    plan = golden(name)
    runs = schedule.play(schedule.tasks(plan.decode, plan.pools, plan.model.layers), 3)
    taken: dict[schedule.Resource, list[tuple[float, float]]] = {}
    for run in runs:
        for resource in run.task.taken:
            taken.setdefault(resource, []).append((run.start, run.end))
    for spans in taken.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize("name", ["tiny_moe", "qwen3_235b", "llama3_70b"])
def test_a_micro_batch_goes_through_everything_in_order(name: str, golden: Callable[[str], Plan]) -> None:
    plan = golden(name)
    order = schedule.tasks(plan.decode, plan.pools, plan.model.layers)
    runs = [r for r in schedule.play(order, 2) if r.batch == 1]
    assert [r.task for r in runs] == order * schedule.STEPS
    assert all(a.end <= b.start for a, b in pairwise(runs))
    alone = sum(task.time_us for task in order)
    # The plan's path counts a latency for each tensor that crosses, a transfer one for all of them.
    assert 0.9 * plan.prediction.path_us <= alone <= plan.prediction.path_us * (1 + 1e-6)


def test_a_pool_is_never_busier_in_decode_than_the_plan_says(golden: Callable[[str], Plan]) -> None:
    for name in ("tiny_moe", "qwen3_235b", "llama3_70b"):
        plan = golden(name)
        step = plan.prediction.tpot_us.conservative - plan.schedule.overhead_us
        for pool in plan.pools:
            assert views.timelines(plan)
            busy = views.decode_busy_us(plan, pool)
            assert 0 < busy <= pool.utilisation * step * 1.01


# Money --------------------------------------------------------------------------------------------


def test_a_million_tokens_cost_what_the_machines_cost(plan: Plan, folder: Path) -> None:
    found = economics(plan, views.prices(read_machines(folder)), views.device_counts(read_machines(folder)))
    library = load_library(None)
    hourly = [library.system(name).usd_per_h for name in ("vr-nvl72", "groq3-lpx")]
    usd = sum(figure.si for figure in hourly if figure is not None)
    rate = plan.prediction.tokens_per_s.conservative
    assert found.cost_per_h is not None and found.cost_per_mtok is not None
    assert found.cost_per_h.usd == pytest.approx(usd)
    assert found.cost_per_mtok.usd == pytest.approx(usd / 3600 / rate * 1e6)
    assert found.cost_per_h.low < usd < found.cost_per_h.high
    assert found.margin_per_h == pytest.approx((plan.prediction.revenue_usd_per_h or 0) - usd)


def test_without_a_price_of_every_machine_nothing_is_said_to_cost(plan: Plan) -> None:
    found = economics(plan, {"vr-nvl72": Hourly(1.0, 1.0, 1.0)}, {})
    assert (found.cost_per_h, found.cost_per_mtok, found.margin_per_h) == (None, None, None)


def test_pools_count_the_devices_that_are_set_aside_for_them(plan: Plan) -> None:
    devices = {"vr-nvl72": 72, "groq3-lpx": 256}
    assert systems_used(plan.pools, devices) == {"vr-nvl72": 1, "groq3-lpx": 1}
    half = replace(plan.pools[0], devices=32, available=36)
    assert systems_used((half, replace(half, name="prefill")), devices) == {"vr-nvl72": 1}
    assert systems_used((half,), devices) == {"vr-nvl72": 0.5}


# The file and the command -------------------------------------------------------------------------


def test_the_command_writes_one_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "made" / "page.html"
    assert cli.main(["report", str(folder), "-o", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"Wrote {path} (")
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_text("old", encoding="utf-8")

    def refuse(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OutputError, match=r"No space left on device\. Choose another name with -o\."):
        write_page("new", path)
    monkeypatch.undo()
    assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.iterdir()} == {"page.html": "old"}


def test_a_folder_without_its_tables_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"lacks 'machines\.csv' .* Compile it again\."):
        plan_page(plan, tmp_path, KNOWN)


def test_sections_of_several_plans_make_one_page(plan: Plan, folder: Path) -> None:
    sections = [*plan_sections(plan, folder, KNOWN), *plan_sections(plan, folder, KNOWN)]
    made = Page(page(views.verdict_view(plan), sections, "disaggc"))
    assert sum(tag == "section" for tag, _ in made.tags) == len(sections)
