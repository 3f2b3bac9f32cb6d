"""The uncut model, run by the same driver: a plan of one stage over the model's own file.

Its requests share micro-batches only with requests of their own length, whatever the model can do.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from disaggc.plans import PhasePlan, Plan, Stage
from disaggc.runtime.driver import Deployment
from disaggc.runtime.in_process import InProcess
from disaggc.runtime.model_file import find_model
from disaggc.runtime.sessions import ModelOpener

POOL = "uncut"


def deploy_reference(plan: Plan, model_folder: Path, threads: int = 1) -> Deployment:
    """Open the model that a plan was compiled from, whole and from its own path.

    Args:
        plan: The plan; its states, feeds and logits are the model's.
        model_folder: The folder of the model and its weight files.
        threads: Threads to compute with.

    Raises:
        ModelError: The model is not there, or cannot be loaded.
        PlanError: Another model has its name.
    """
    whole = reference_plan(plan)
    opener = ModelOpener(find_model(plan.model, model_folder), threads)
    return Deployment(whole, InProcess(whole, opener, {POOL: 1}, threads), ragged=False)


def reference_plan(plan: Plan) -> Plan:
    """The same job with one pool that does everything."""
    stage = Stage(
        index=0,
        pool=POOL,
        layers=(),
        roles=(),
        subgraph=plan.model.file,
        inputs=tuple(feed.input for feed in plan.feeds),
        outputs=(plan.logits,),
        states=tuple(range(len(plan.states))),
    )
    whole = PhasePlan(stages=(stage,))
    return dataclasses.replace(plan, decode=whole, prefill=whole)
