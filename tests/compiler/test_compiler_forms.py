"""A model with fused norms is priced in both forms, and the faster plan is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from disaggc.compiler import Decided, better_form
from disaggc.errors import InfeasiblePlanError
from disaggc.frontends import OnnxModel, open_model
from disaggc.ir import Graph

FUSED = "genai.qwen3.fp32"


def _decider(graph: Graph, rates: dict[str, float]) -> Callable[[OnnxModel], Decided]:
    """Decides at the given tokens/s for the model as it is and with its norms split; 0 for no plan."""

    def decided(form: OnnxModel) -> Decided:
        fused = len(form.graph.node) == len(graph.nodes)
        rate = rates["fused" if fused else "split"]
        if not rate:
            raise InfeasiblePlanError("no plan")
        return Decided(form, graph, cast(Any, SimpleNamespace(answer=SimpleNamespace(tokens_per_s=rate))))

    return decided


@pytest.mark.parametrize(("fused", "split", "taken"), [(2, 1, 2), (1, 2, 2), (1, 1, 1), (0, 1, 1), (1, 0, 1)])
def test_the_faster_form_is_taken(
    fused: float,
    split: float,
    taken: float,
    skeleton: Callable[[str], Path],
    analysed: Callable[[str], Graph],
) -> None:
    decider = _decider(analysed(FUSED), {"fused": fused, "split": split})
    best = better_form(open_model(skeleton(FUSED)), decider, cuts=True)
    assert best.decision.answer.tokens_per_s == taken
    assert any("split" in text for text in best.graph.warnings) == (split > fused)


def test_without_a_second_system_nothing_is_split(
    skeleton: Callable[[str], Path], analysed: Callable[[str], Graph]
) -> None:
    decider = _decider(analysed(FUSED), {"fused": 1, "split": 2})
    best = better_form(open_model(skeleton(FUSED)), decider, cuts=False)
    assert best.decision.answer.tokens_per_s == 1
