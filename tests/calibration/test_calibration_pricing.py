"""What a calibrated machine adds to the cost model: nodes, caches, messages that occupy, engine time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from jobs import TINY
from known_machine import KERNELS, MESSAGES, known_job, known_library, known_system

from disaggc.calibration import forecast, in_one_process
from disaggc.compiler import Options, compile_job
from disaggc.cost import Bill, Formats, Group, Work, in_cache, work_time
from disaggc.errors import JobError
from disaggc.ir import Cost, Expr, Point, Role
from disaggc.plans import Plan

POINT = Point(1.0, 1, 10)
STORED = Formats()


def product(elements: int, nodes: tuple[tuple[str, int], ...] = ()) -> Work:
    cost = Cost("gemm", Expr.of("batch") * (2 * elements), {32: elements})
    return Work(Role.FFN, Bill.of([cost]), 2, 64, 0, nodes)


def seconds(work: Work, group: Group) -> float:
    return float(work_time(work, group, POINT, STORED).total)


def compiled(folder: Path, mode: str, micro_batches: int = 1) -> Plan:
    """A plan of the tiny mixture of experts on two executors of the known machine."""
    library = known_library(folder / "library", known_system("here"), known_system("there"))
    job = known_job(TINY.name, mode, micro_batches)
    return compile_job(job, TINY.parent, folder / "out", Options(library=library, force=True))


def path_us(plan: Plan) -> float:
    return sum(s.time_us for s in plan.decode.stages) + sum(t.time_us for t in plan.decode.transfers)


def test_every_node_takes_its_start() -> None:
    group = Group(known_system(), 1, 1, 1, 1)
    plain = seconds(product(1000), group)
    with_nodes = seconds(product(1000, (("gemm", 3), ("movement", 2))), group)
    assert with_nodes - plain == pytest.approx(3 * 1.4e-6 + 2 * 0.4e-6)


def test_nodes_are_no_part_of_what_makes_work_equal() -> None:
    assert product(1000) == product(1000, (("gemm", 3),))


def test_weights_that_fit_the_cache_are_streamed_out_of_it() -> None:
    group = Group(known_system(), 1, 1, 1, 1)
    elements = 10**6
    warm, cold = in_cache(group, 4.0 * elements), in_cache(group, KERNELS.cache_bytes + 1)
    assert warm.cached
    assert not cold.cached
    assert seconds(product(elements), cold) > 2 * seconds(product(elements), warm)


def test_a_plan_in_one_place_takes_its_kernels_and_the_engines_step(tmp_path: Path) -> None:
    plan = compiled(tmp_path, "colocated on here")
    assert plan.mode == "colocated on here"
    assert plan.schedule.overhead_us == pytest.approx(MESSAGES.step * 1e6)
    assert not any("engine overhead of a step" in told for told in plan.inferred), "it was measured"
    assert plan.prediction.path_us == pytest.approx(path_us(plan), rel=1e-6)
    assert forecast(plan, 1).step_us == pytest.approx(path_us(plan) + 40)
    assert forecast(plan, 1).step_us <= plan.prediction.tpot_us.conservative  # which computes prompts, too


def test_a_message_occupies_both_of_its_ends(tmp_path: Path) -> None:
    plan = compiled(tmp_path, "afd")
    assert plan.mode.startswith("AFD")
    hops = len(plan.decode.transfers)
    assert hops >= 4
    # The search counts what the last layer hands on as if another followed: a message more at most.
    assert 0 <= plan.prediction.path_us - path_us(plan) < 1.01 * (7 + 2 * 12)
    for transfer in plan.decode.transfers:
        assert transfer.time_us == pytest.approx(7 + transfer.bytes_per_token / 8e3, rel=1e-3)
    beside = in_one_process(plan, known_system())
    saved = 2 * hops * (12 - 5) + sum(t.time_us for t in plan.decode.transfers)
    assert path_us(plan) - path_us(beside) == pytest.approx(saved)


def test_the_head_leaves_a_bubble_that_the_forecast_shows(tmp_path: Path) -> None:
    plan = compiled(tmp_path, "afd", 3)
    lead = plan.decode.stages[-1]
    other = next(pool.name for pool in plan.pools if pool.name != lead.pool)
    heavy = replace(lead, time_us=lead.time_us + 5000)
    headed = replace(plan, decode=replace(plan.decode, stages=(*plan.decode.stages[:-1], heavy)))
    alone, crowd = forecast(headed, 1), forecast(headed, 3)
    assert crowd.busy[lead.pool] > 0.95
    assert crowd.busy[other] < 0.2
    assert crowd.tokens_per_s < 1.2 * alone.tokens_per_s
    assert forecast(plan, 3).tokens_per_s > 1.5 * forecast(plan, 1).tokens_per_s


def test_a_job_names_the_modes_that_are_searched(tmp_path: Path) -> None:
    plan = compiled(tmp_path, "AFD: attention on there")
    assert plan.mode == "AFD: attention on there, FFN on here"
    assert [a.mode for a in plan.alternatives] == [plan.mode]
    assert plan.certificate.status == "optimal"


def test_a_mode_that_nobody_knows_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"mode = 'pipeline' is part of no mode's name. The fleet has: coloc"):
        compiled(tmp_path, "pipeline")
