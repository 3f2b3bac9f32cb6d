"""The subgraphs of a plan folder, the stages that they serve, and the weight files that they refer to."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from disaggc.backends.emitters.order import Order
from disaggc.backends.onnxruntime.weights import TABLE
from disaggc.errors import PlanError
from disaggc.ir import Phase
from disaggc.plans import PhasePlan, Stage


@dataclass(frozen=True, slots=True)
class Use:
    """A stage that a subgraph serves in a phase."""

    phase: Phase
    stage: Stage


def subgraphs_of(order: Order) -> dict[str, tuple[Use, ...]]:
    """Path of each subgraph to what it serves, in order of execution, prefill first.

    Raises:
        PlanError: A stage has no subgraph.
    """
    phases: dict[Phase, PhasePlan] = {Phase.PREFILL: order.plan.prefill, Phase.DECODE: order.plan.decode}
    found: dict[str, tuple[Use, ...]] = {}
    for phase, plan in phases.items():
        for stage in plan.stages:
            if not stage.subgraph:
                raise PlanError(
                    f"Stage {stage.index} of {phase.value} has no subgraph. Compile the plan again."
                )
            found[stage.subgraph] = (*found.get(stage.subgraph, ()), Use(phase, stage))
    return found


def weight_files(folder: Path, subgraphs: Collection[str]) -> tuple[str, ...]:
    """Names of the files that subgraphs refer to, relative to the model's folder.

    Raises:
        PlanError: The plan folder has no table of weights, or a broken one.
    """
    try:
        parts = json.loads((folder / TABLE).read_text(encoding="utf-8"))["parts"]
        used = {use["file"] for path in subgraphs for use in parts.get(path, {}).values()}
    except OSError as error:
        raise PlanError(f"Plan '{folder}' lacks {TABLE} ({error.strerror}). Compile it again.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"'{folder / TABLE}' is no table of weights: {error!r}. Compile again.") from error
    return tuple(sorted(used))
