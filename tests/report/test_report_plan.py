"""What people read of a plan: every sentence's numbers are the plan's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from jobs import tiny_plan
from rich.console import RenderableType

from disaggc import report
from disaggc.ir import Graph
from disaggc.plans import Plan, open_plan
from disaggc.report import Screen
from disaggc.report.inspect import role_costs


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return open_plan(tiny_plan(tmp_path_factory.getbasetemp()))


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[Iterable[RenderableType]], str]:
    def show(parts: Iterable[RenderableType]) -> str:
        Screen().show(*parts)
        return capsys.readouterr().out

    return show


Printed = Callable[[Iterable[RenderableType]], str]


def test_a_summary_says_mode_pools_speed_and_proof(plan: Plan, printed: Printed) -> None:
    text = printed(report.summary(plan))
    rate, user = plan.prediction.tokens_per_s, plan.prediction.tokens_per_s_per_user
    assert f"for tier gtc2026/premium: {plan.mode}\n" in text
    assert "  vr-nvl72: 72 of 72 rubin (tp " in text
    assert f"2 micro-batches of 6,144 requests: {rate.conservative:,.0f} tokens/s, " in text
    assert f"{user.conservative:,.0f} tokens/s/user (asked: 400)" in text
    assert "re-priced without the solver: agrees" in text
    assert "weakest number it rests on: I (inferred)" in text


def test_a_summary_says_what_the_next_best_mode_loses(plan: Plan, printed: Printed) -> None:
    best = next(a for a in plan.alternatives if a.feasible and not a.chosen)
    assert best.loss is not None
    text = printed(report.summary(plan))
    assert (
        f"because the next best, {best.mode}, gives up {best.loss:.1%}; the plan is limited because " in text
    )


def test_a_lonely_mode_is_said_to_be_the_only_one(plan: Plan, printed: Printed) -> None:
    alone = replace(plan, alternatives=tuple(a for a in plan.alternatives if a.chosen))
    assert "because no other mode meets the tier; it is limited because " in printed(report.summary(alone))


def test_a_checker_that_disagrees_is_shouted(plan: Plan, printed: Printed) -> None:
    doubted = replace(plan, certificate=replace(plan.certificate, checked=False, status="unproven"))
    text = printed(report.summary(doubted))
    assert "  unproven: " in text
    assert "re-priced without the solver: DISAGREES" in text


def test_an_explanation_lists_every_mode_the_best_first(plan: Plan, printed: Printed) -> None:
    text = printed(report.explain(plan))
    places = [text.index(f"{'> ' if a.chosen else '  '}{a.mode} ") for a in plan.alternatives]
    assert places == sorted(places)
    assert f" > {plan.mode}" in text


def test_an_explanation_keeps_the_brackets_of_a_rejection(plan: Plan, printed: Printed) -> None:
    reason = "colocated on groq3-lpx: Set weights = 'fp8' in [model]"
    assert f"Rejected\n  {reason}\n" in printed(report.explain(replace(plan, rejections=(reason,))))


def test_an_explanation_without_rejections_has_no_heading_for_them(plan: Plan, printed: Printed) -> None:
    assert "Rejected" not in printed(report.explain(replace(plan, rejections=())))


def test_a_name_with_brackets_is_shown_as_it_is(plan: Plan, printed: Printed) -> None:
    named = replace(plan, model=replace(plan.model, name="[bold]net"))
    assert printed(report.summary(named)).startswith("[bold]net for tier ")


def test_every_inferred_number_is_told(plan: Plan, printed: Printed) -> None:
    text = printed(report.explain(plan))
    assert f"Inferred numbers that this rests on ({len(plan.inferred)}; " in text
    assert "groq3-lpx device.layer_latency = 2.43 us (0.76 to 7.3)" in text


def test_tables_of_an_explanation_fit_a_hundred_columns(plan: Plan, printed: Printed) -> None:
    lines = printed(report.explain(plan)).splitlines()
    titles = ("Memory map", "Decode, ", "Prefill, ", "The best plan of each mode")
    starts = [i for i, line in enumerate(lines) if line.startswith(titles)]
    assert len(starts) == len(titles)
    for start in starts:
        rows = lines[start : lines.index("", start)]
        assert max(len(row) for row in rows if not row.startswith("  ")) <= 100


def test_roles_of_an_inspection_add_up_to_the_model(analysed: Callable[[str], Graph]) -> None:
    *roles, total = role_costs(analysed("qwen3_moe.gqa_moe"))
    assert total.role == "total"
    for phase in ("prefill", "decode"):
        flops = sum(float(role.amounts[phase].flops) for role in roles)
        assert float(total.amounts[phase].flops) == pytest.approx(flops)
    assert sum(role.nodes for role in roles) == total.nodes


def test_an_inspection_for_programs_has_every_op(analysed: Callable[[str], Graph]) -> None:
    graph = analysed("qwen3_moe.gqa_moe")
    data = report.inspection_data(graph)
    assert [op["name"] for op in data["ops"]] == [node.name for node in graph.nodes]
    assert {op["role"] for op in data["ops"]} == {role["role"] for role in data["roles"]} - {"total"}
    assert (data["layers"], len(data["states"])) == (4, 8)
    assert all(op["evidence"] for op in data["ops"])


def test_an_inspection_shows_every_op_when_asked(analysed: Callable[[str], Graph], printed: Printed) -> None:
    graph = analysed("qwen3_moe.gqa_moe")
    few, all_ops = (printed(report.inspection(graph, verbose)) for verbose in (False, True))
    assert "4 layers of 1 kind" in few
    assert "Evidence, one op of each role" in few
    assert all_ops.count("com.microsoft::MoE") == 4 > few.count("com.microsoft::MoE") == 1


def test_a_graph_without_state_says_so(analysed: Callable[[str], Graph], printed: Printed) -> None:
    graph = replace(analysed("qwen3_moe.gqa_moe"), states=(), layers=())
    text = printed(report.inspection(graph))
    assert "No state: nothing comes back from one step to the next." in text
    assert "no layers" in text
