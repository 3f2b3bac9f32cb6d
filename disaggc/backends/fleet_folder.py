"""Writes the folder of a fleet: plan.json, and a plan folder for each kind of replica that decodes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx

from disaggc import __version__
from disaggc.backends.plan_folder import model_ref, write_plan
from disaggc.frontends import sha256
from disaggc.ir import Graph
from disaggc.placement.fleet import blueprint
from disaggc.placement.fleet.decide import FleetDecision
from disaggc.plans import FLEET_FORMAT, VERSION, FleetPlan, Formats, Job, TierSpec, dump_plan

SOLVER = "OR-Tools MathOpt SCIP, CP-SAT"


def write_fleet(
    job: Job,
    tiers: tuple[TierSpec, ...],
    source: onnx.ModelProto,
    graph: Graph,
    decision: FleetDecision,
    folder: Path,
) -> FleetPlan:
    """Write everything into ``folder`` and return the plan.

    Args:
        job: As asked.
        tiers: Its tiers with every field filled in.
        source: The model that ``graph`` was read from.
        graph: Analysed.
        decision: What was chosen.
        folder: Exists and is empty.
    """
    files = dict(_deployments(job, tiers, source, graph, decision, folder))
    plan = fleet_plan(job, graph, decision, files)
    (folder / "plan.json").write_bytes(dump_plan(plan))
    (folder / "model.path").write_text(f"{graph.source.parent.resolve()}\n", encoding="utf-8")
    return plan


def _deployments(
    job: Job,
    tiers: tuple[TierSpec, ...],
    source: onnx.ModelProto,
    graph: Graph,
    decision: FleetDecision,
    folder: Path,
) -> Iterator[tuple[str, str]]:
    """Write the plan folders; yields each plan.json with its SHA-256."""
    named = blueprint.names(decision)
    for k, deployed in decision.deployments.items():
        path = f"deployments/{named[k]}"
        (folder / path).mkdir(parents=True)
        write_plan(job, tiers[deployed.column.tier], source, graph, deployed.decision, folder / path)
        written = (folder / path / "plan.json").read_bytes()
        yield f"{path}/plan.json", hashlib.sha256(written).hexdigest()


def fleet_plan(
    job: Job, graph: Graph, decision: FleetDecision, files: dict[str, str] | None = None
) -> FleetPlan:
    """The plan of a fleet.

    Args:
        job: As asked.
        graph: Analysed.
        decision: What was chosen.
        files: SHA-256 of what was written beside it, by path.
    """
    systems, tiers = blueprint.systems(decision), blueprint.tiers(decision)
    weakest, inferred = blueprint.provenance(decision)
    return FleetPlan(
        format=FLEET_FORMAT,
        version=VERSION,
        compiler=__version__,
        model=model_ref(graph),
        formats=Formats(job.model.weights, job.model.kv, job.model.activations),
        objective=decision.objective.name,
        unit=decision.objective.unit,
        value=decision.choice.value,
        systems=systems,
        tiers=tiers,
        replicas=blueprint.replicas(decision),
        economics=blueprint.economics(decision, systems, tiers),
        certificate=blueprint.certificate(decision, SOLVER),
        weakest=weakest,
        then=job.objective.then,
        break_even=blueprint.break_even(decision),
        kept=decision.kept,
        changes=blueprint.changes(decision),
        inferred=inferred,
        warnings=graph.warnings,
        inputs={graph.source.name: sha256(graph.source)},
        files=files or {},
    )
