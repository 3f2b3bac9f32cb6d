"""The timeline of a run, and the virtual clock beside it."""

import itertools
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from disaggc.errors import JobError
from disaggc.plans import PhasePlan, Plan, Stage, Transfer
from disaggc.runtime import Execution, deploy, write_timeline
from disaggc.runtime.scheduler import Worked
from disaggc.runtime.virtual_clock import busy_share, simulate

from .fleets import cut, on_processes
from .splitting import one_stage_plan, read
from .test_processes import TINY


@pytest.fixture(scope="module")
def bare() -> Plan:
    return one_stage_plan(TINY, read(TINY))


def timed(plan: Plan, stages: str, hop_us: float = 0.0) -> Plan:
    """'a3 b2' is 3 us on a, then 2 us on b."""
    steps = [(word[0], float(word[1:])) for word in stages.split()]
    made = tuple(Stage(i, pool, (i,), ("ffn",), "", (), (), time_us=us) for i, (pool, us) in enumerate(steps))
    hops = tuple(
        Transfer(i, a.pool, b.pool, ("x",), 1.0, hop_us) for i, (a, b) in enumerate(itertools.pairwise(made))
    )
    phase = PhasePlan(made, hops if hop_us else ())
    return replace(plan, decode=phase, prefill=phase)


def lone(steps: int, micro_batches: int) -> list[Worked]:
    return [Worked(i, "decode", steps, steps, 0.0, 1.0, ()) for i in range(micro_batches)]


def step_us(plan: Plan, micro_batches: int, steps: int = 200) -> float:
    found = simulate(plan, lone(steps, micro_batches))
    return max(entry.end_us for entry in found) / steps


def test_one_micro_batch_takes_the_whole_path(bare: Plan) -> None:
    assert step_us(timed(bare, "a3 b2 a1", hop_us=0.5), 1) == pytest.approx(7.0)


def test_two_micro_batches_hide_each_other(bare: Plan) -> None:
    assert step_us(timed(bare, "a3 b3"), 2) == pytest.approx(6.0, rel=0.02)
    assert busy_share(simulate(timed(bare, "a3 b3"), lone(200, 2))) == pytest.approx(
        {"a": 1.0, "b": 1.0}, rel=0.02
    )


def test_a_third_micro_batch_fits_into_the_time_of_the_transfers(bare: Plan) -> None:
    """MegaScale-Infer's rule: m >= 2 (1 + transfer / compute)."""
    plan = timed(bare, "a2 b2", hop_us=1.0)
    looped = replace(
        plan,
        decode=replace(
            plan.decode, transfers=(*plan.decode.transfers, Transfer(1, "b", "a", ("y",), 1.0, 1.0))
        ),
    )
    assert step_us(looped, 2) == pytest.approx(6.0, rel=0.02)
    assert step_us(looped, 3) == pytest.approx(6.0, rel=0.02)
    assert step_us(looped, 4) == pytest.approx(8.0, rel=0.02)


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 5])
def test_a_step_takes_at_least_the_path_and_the_busiest_pool(bare: Plan, micro_batches: int) -> None:
    plan = timed(bare, "a3 b5 a1 b2 a4", hop_us=0.25)
    found = step_us(plan, micro_batches)
    bound = max(15.0 + 4 * 0.25, micro_batches * 8.0)
    assert bound <= found * 1.0001
    assert found <= micro_batches * 16.0


def test_nothing_is_done_twice_at_a_time_nor_before_its_turn(bare: Plan) -> None:
    plan = timed(bare, "a3 b5 a1", hop_us=0.5)
    worked = [
        Worked(1, "prefill", 1, 3, 0.0, 1.0, ()),
        Worked(2, "prefill", 1, 3, 0.0, 1.0, ()),
        Worked(3, "decode", 4, 4, 1.0, 2.0, (0, 1)),
    ]
    found = simulate(plan, worked)
    assert len(found) == 6 * 5
    lines = defaultdict(list)
    for entry in found:
        lines[entry.resource].append((entry.start_us, entry.end_us))
    for spans in lines.values():
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    ends = [max(e.end_us for e in found if e.work == i) for i in range(3)]
    assert min(e.start_us for e in found if e.work == 2) == max(ends[:2])


@pytest.mark.parametrize(
    "execution", [Execution(traced=True), on_processes(traced=True)], ids=["local", "processes"]
)
def test_a_timeline_shows_every_stage_here_and_there(tmp_path: Path, execution: Execution) -> None:
    plan = cut(TINY, tmp_path)
    with deploy(plan, tmp_path, TINY.parent, execution=execution) as deployment:
        result = deployment.generate([[1, 2, 3]], 6)
    bars = write_timeline(plan, result, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    shown = [event for event in events if event["ph"] == "X"]
    assert len(shown) == bars
    here = [e for e in shown if e["pid"] == 1 and "predicted_us" in e["args"]]
    there = [e for e in shown if e["pid"] == 2]
    assert len(here) == len(there) == 6 * len(plan.decode.stages)
    messages = [e for e in shown if e["pid"] == 1 and "bytes" in e["args"]]
    assert len(messages) == sum(link.messages for link in result.links)
    assert all(e["ts"] >= 0 and e["dur"] >= 0 for e in shown)
    names = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert {"attention[0]", "experts[0]", "attention -> experts[0]"} <= names


def test_a_timeline_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    with deploy(plan, tmp_path, TINY.parent, execution=Execution(traced=True)) as deployment:
        result = deployment.generate([[1]], 1)
    with pytest.raises(JobError, match=r"Cannot write the timeline to '.*nowhere.*': No such file"):
        write_timeline(plan, result, tmp_path / "nowhere" / "trace.json")
