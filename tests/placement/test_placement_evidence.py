"""What a plan says for itself: loads of roles and ops, moves of one role, and the frontier of each mode."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from made import ANY, FP8, LIBRARY, rack, request

from disaggc.cost import Formats, Group
from disaggc.ir import Graph, Phase
from disaggc.placement import evaluate, fold
from disaggc.placement.burden import OpLoads, role_loads
from disaggc.placement.decide import Decision, decide, tpot_seconds
from disaggc.placement.frontier import answer_per_mw, frontier
from disaggc.placement.moves import moves
from disaggc.placement.pricing import Limits, Load, Pricing
from disaggc.placement.search import SIMPLICITY, Answer, Configuration, Request
from disaggc.placement.stages import lay_out, span_times

FLEET = ((rack("h20-x8", 2), 1), (rack("l40s-x8", 2), 1))


@pytest.fixture(scope="module")
def qwen(analysed: Callable[[str], Graph]) -> tuple[Graph, Decision]:
    graph = analysed("full.qwen3_235b.moe_op")
    fleet = ((LIBRARY.system("vr-nvl72"), 1), (LIBRARY.system("groq3-lpx"), 2))
    load = Load(6_380, 121_220, 400, 128_000)
    wanted = Request(fold(graph), fleet, load, FP8, Limits(1 / 200, 2.0), batches=(128,), micro_batches=(1,))
    return graph, decide(wanted)


@pytest.fixture(scope="module")
def made() -> Decision:
    return decide(request(FLEET))


def test_ops_add_up_to_their_roles(qwen: tuple[Graph, Decision]) -> None:
    graph, decision = qwen
    loads = OpLoads(graph, decision)
    names = [group.system.name for group in decision.answer.configuration.pricing.groups]
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for phase in Phase:
        for span in lay_out(graph, decision.request.pieces, decision.answer, phase):
            for node in span.nodes:
                load = loads.of(node, span.place, phase)
                if load is not None:
                    found = sums[phase.value, graph.marks[node].role.value, names[span.place]]
                    found[0], found[1] = found[0] + load.flops, found[1] + load.bytes
    for row in role_loads(decision):
        assert sums[row.phase, row.role, row.pool] == pytest.approx([row.flops, row.bytes], rel=1e-6)


def test_roles_take_the_time_of_their_stages(qwen: tuple[Graph, Decision]) -> None:
    graph, decision = qwen
    rows = role_loads(decision)
    for phase in Phase:
        spans = lay_out(graph, decision.request.pieces, decision.answer, phase)
        taken = sum(
            float(span_times(decision.request.pieces, decision.answer, s, phase).total) for s in spans
        )
        assert sum(r.time_us for r in rows if r.phase == phase.value) == pytest.approx(taken * 1e6)


def test_no_single_move_beats_the_plan(made: Decision) -> None:
    found = moves(made)
    assert found
    assert all(move.loss >= -SIMPLICITY for move in found if move.feasible and move.loss is not None)


def test_a_move_goes_from_where_a_role_is_to_where_it_is_not(made: Decision) -> None:
    where = {(row.phase, row.role): row.pool for row in role_loads(made)}
    for move in moves(made):
        assert move.source == where[move.phase, move.role] != move.target


def test_a_move_that_does_not_fit_says_by_how_much(qwen: tuple[Graph, Decision]) -> None:
    move = next(m for m in moves(qwen[1]) if (m.phase, m.role) == ("decode", "core_attention"))
    assert (move.source, move.target, move.feasible) == ("vr-nvl72", "groq3-lpx", False)
    assert re.fullmatch(
        r"a device of groq3-lpx would have to hold [\d.]+ GB, and 0\.45 GB are usable", move.reason
    )
    assert move.tpot_us is None


def test_a_move_to_a_device_that_cannot_hold_the_format_says_which_it_holds(made: Decision) -> None:
    groups = (Group(rack("h20-x8", 2), 1, 1, 2, 1), Group(rack("groq3-lpx", 32), 1, 32, 1, 1))
    pricing = Pricing(made.request.pieces, groups, made.request.load, Formats("bf16", "fp8", "bf16"))
    configuration = Configuration(pricing, 4, 1, 0.0)
    all_on_hbm = (0,) * (2 * len(made.request.pieces.pieces))
    objective = evaluate(configuration.problem(made.request.limits, ANY), all_on_hbm).objective
    answer = Answer(configuration, all_on_hbm, objective, configuration.tokens_per_s(objective))
    request_ = replace(made.request, formats=pricing.formats)
    found = moves(replace(made, request=request_, answer=answer))
    told = {move.reason for move in found if move.role == "ffn"}
    assert told == {"lp30 holds weights in fp8, and the plan serves them in bf16"}


def test_a_plan_on_one_system_has_no_moves() -> None:
    assert moves(decide(request(FLEET[:1]))) == ()


def test_the_frontier_trades_speed_for_tokens_per_megawatt(made: Decision) -> None:
    by_mode = defaultdict(list)
    for point in frontier(made):
        by_mode[point.mode].append(point)
    assert by_mode.keys() == {option.mode for option in made.options if option.answer is not None}
    for points in by_mode.values():
        for slow, fast in pairwise(points):
            assert slow.tokens_per_s_per_user < fast.tokens_per_s_per_user
            assert slow.tokens_per_s_per_mw > fast.tokens_per_s_per_mw


def test_a_modes_best_plan_is_on_its_frontier_or_under_it(made: Decision) -> None:
    points = frontier(made)
    for option in made.options:
        if option.answer is not None:
            speed, rate = 1 / tpot_seconds(option.answer), answer_per_mw(option.answer)
            mine = [p for p in points if p.mode == option.mode]
            assert any(
                p.tokens_per_s_per_user >= speed and p.tokens_per_s_per_mw >= rate * (1 - 1e-9) for p in mine
            )


def test_points_of_a_frontier_are_few(made: Decision) -> None:
    wide = replace(made.request, batches=tuple(range(1, 200)))
    points = frontier(replace(made, request=wide))
    assert len(points) <= 13 * len(made.options)
