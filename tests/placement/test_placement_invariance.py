"""The plan hangs on what a model computes: other names, no metadata and another order give the same one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import small_job
from made import LIBRARY
from rewriting import renamed, shuffled, undocumented
from skeletons import HUGE, SKELETONS

from disaggc.frontends import open_model, read_graph
from disaggc.ir import Graph
from disaggc.passes import load_pipeline, run
from disaggc.placement.decide import Decision, decide
from disaggc.placement.pieces import fold
from disaggc.placement.request import request_of, resolve_tier

JOB = replace(small_job("", {"vr-nvl72": 1, "groq3-lpx": 2}, batch=96, context=2048))


def _rewritten(path: Path) -> Graph:
    other, order = shuffled(undocumented(renamed(open_model(path), seed=5)), seed=5)
    assert order != sorted(order)
    return run(read_graph(path, other), load_pipeline())


@pytest.mark.parametrize("name", [name for name in SKELETONS if name != HUGE])
def test_names_metadata_and_order_change_nothing_that_is_placed(
    name: str, skeleton: Callable[[str], Path], analysed: Callable[[str], Graph]
) -> None:
    """Pieces, prices and flows are all that placement sees of a model, to the last digit."""
    assert fold(_rewritten(skeleton(name))) == fold(analysed(name))


def _told(decision: Decision) -> list[object]:
    """What a user would see change: mode, speed, devices and every alternative."""
    groups = decision.answer.configuration.pricing.groups
    devices = [(g.system.name, g.tp, g.dp, g.pp) for g in groups]
    options = [(o.mode, o.answer and o.answer.objective, o.reason) for o in decision.options]
    return [decision.mode, decision.answer.objective, devices, decision.bound, decision.candidates, options]


def test_names_metadata_and_order_change_no_plan(
    skeleton: Callable[[str], Path], analysed: Callable[[str], Graph]
) -> None:
    name = "qwen3_moe.gqa_moe"
    plans = [
        decide(request_of(JOB, resolve_tier(JOB.tier[0], LIBRARY), graph, LIBRARY))
        for graph in (analysed(name), _rewritten(skeleton(name)))
    ]
    assert _told(plans[0]) == _told(plans[1])
