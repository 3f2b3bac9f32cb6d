"""The whole way on one screen: an ONNX model and a job become a plan folder.

read -> passes -> fold -> decide -> lay out -> cut -> write
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from disaggc.backends.fleet_folder import fleet_plan, write_fleet
from disaggc.backends.plan_folder import fresh_folder, write_plan
from disaggc.errors import InfeasiblePlanError
from disaggc.frontends import OnnxModel, open_model, read_graph
from disaggc.ir import Graph
from disaggc.passes import load_pipeline, run
from disaggc.placement.decide import Decision, decide
from disaggc.placement.fleet.decide import FleetDecision, Wish, decide_fleet, signatures
from disaggc.placement.fleet.request import wanted_of
from disaggc.placement.objective import SubFleet, choose_fleet
from disaggc.placement.request import placed, request_of, resolve_tier
from disaggc.plans import JOB_FILE, FleetPlan, Job, Plan, TierSpec, dump_job, kept, varied, with_trace
from disaggc.targets import load_library


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile, beside the job.

    Attributes:
        library: A user's folder of declarations in front of the shipped ones.
        pipeline: Name of the declared order of passes.
        force: Replace an output folder that exists.
        after_pass: Called with the name and graph of each pass.
        tell: Told what is being done.
    """

    library: Path | None = None
    pipeline: str = "default"
    force: bool = False
    after_pass: Callable[[str, Graph], None] = lambda *_: None
    tell: Callable[[str], None] = lambda _: None


def compile_job(job: Job, root: Path, output: Path, options: Options | None = None) -> Plan:
    """Compile a job into a plan folder, which appears whole or not at all.

    Args:
        job: What to serve, where and how well.
        root: The folder that the job's paths are relative to.
        output: The plan folder to write.
        options: How.

    Returns:
        The plan as written.

    Raises:
        DisaggcError: The model, job, targets or output are at fault, or no plan meets the tier.
    """
    options = options or Options()
    with fresh_folder(output, options.force) as folder:
        model = Model(root / job.model.onnx, options)
        tier, best = model.decided(job, root)
        options.tell("writing subgraphs")
        return write_plan(job, tier, best.source, best.graph, best.decision, folder, best.fleets)


def compile_fleet(
    job: Job, root: Path, output: Path, options: Options | None = None, present: FleetPlan | None = None
) -> FleetPlan:
    """Compile a job whose tiers share a fleet into a fleet's folder, which appears whole or not at all.

    Args:
        job: What to serve, where and how well.
        root: The folder that the job's paths are relative to.
        output: The folder to write.
        options: How.
        present: A plan to stay near.

    Returns:
        The plan as written.

    Raises:
        DisaggcError: The model, job, targets or output are at fault, or what must be served cannot be.
    """
    options = options or Options()
    with fresh_folder(output, options.force) as folder:
        model = Model(root / job.model.onnx, options)
        best = model.decided_fleet(job, root, present)
        options.tell("writing subgraphs")
        (folder / JOB_FILE).write_bytes(dump_job(kept(job, best.tiers, root)))
        return write_fleet(job, best.tiers, best.source, best.graph, best.decision, folder)


def planned_fleet(job: Job, root: Path, options: Options) -> FleetPlan:
    """The best plan of a job whose tiers share a fleet; nothing is written.

    Raises:
        DisaggcError: The model, job or targets are at fault, or what must be served cannot be.
    """
    best = Model(root / job.model.onnx, options).decided_fleet(job, root)
    return fleet_plan(job, best.graph, best.decision)


class Model:
    """A model that jobs are decided for, read and analysed once."""

    def __init__(self, path: Path, options: Options) -> None:
        """Read it.

        Raises:
            ModelError: The file is no model.
        """
        self._path = path
        self._options = options
        self._library = load_library(options.library)
        options.tell("reading the model")
        self._source = open_model(path)

    def decided(self, job: Job, root: Path) -> tuple[TierSpec, Decided]:
        """The best plan for a job, with its tier filled in.

        Raises:
            DisaggcError: The model, job or targets are at fault, or no plan meets the tier.
        """
        tier = resolve_tier(with_trace(job.tier[0], root), self._library)
        wanted = request_of(job, tier, self._graph, self._library)
        wanted, fleets = choose_fleet(wanted, job.objective.name, self._options.tell)
        return tier, Decided(self._source, self._graph, decide(wanted, self._options.tell), fleets)

    def decided_fleet(self, job: Job, root: Path, present: FleetPlan | None = None) -> DecidedFleet:
        """The best plan for a job whose tiers share a fleet.

        Raises:
            DisaggcError: The model, job or targets are at fault, or what must be served cannot be.
        """
        tiers = tuple(resolve_tier(with_trace(tier, root), self._library) for tier in job.tier)
        draft = None
        if job.model.draft:
            draft = placed(analyse(root / job.model.draft, self._options))
        wanted = wanted_of(job, tiers, self._graph, self._library, draft)
        wish = Wish(job.objective.name, job.objective.then, None if present is None else signatures(present))
        decision = decide_fleet(wanted, wish, self._options.tell)
        return DecidedFleet(self._source, self._graph, tiers, decision)

    @functools.cached_property
    def _graph(self) -> Graph:
        """After the job is known to be in order: the passes take longest."""
        return analyse(self._path, self._options, self._source)


@dataclass(frozen=True, slots=True)
class Compared:
    """One value of a sweep: the best plan with it, or why there is none."""

    value: float
    best: Decided | DecidedFleet | None
    reason: str = ""


def compare(job: Job, root: Path, name: str, values: Sequence[float], options: Options) -> list[Compared]:
    """The best plan for each value of one input of a job, nothing written.

    Args:
        job: As it is but for that input.
        root: The folder that the job's paths are relative to.
        name: A system of the fleet, whose number varies (0 leaves it out), or a number of the tier.
        values: What it takes.
        options: How.

    Raises:
        DisaggcError: The model or the job are at fault. A value without a plan is a row that says so.
    """
    jobs = [varied(job, name, value) for value in values]
    model, found = Model(root / job.model.onnx, options), []
    for value, one in zip(values, jobs, strict=True):
        options.tell(f"{name} = {value:g}")
        try:
            best = model.decided_fleet(one, root) if job.shares_fleet else model.decided(one, root)[1]
            found.append(Compared(value, best))
        except InfeasiblePlanError as error:
            found.append(Compared(value, None, str(error).splitlines()[0]))
    return found


@dataclass(frozen=True, slots=True)
class Decided:
    """A model, the best plan for it, and the parts of the fleet that were searched for that."""

    source: OnnxModel
    graph: Graph
    decision: Decision
    fleets: tuple[SubFleet, ...] = ()


@dataclass(frozen=True, slots=True)
class DecidedFleet:
    """A model, its tiers with every field filled in, and the best plan for all of them together."""

    source: OnnxModel
    graph: Graph
    tiers: tuple[TierSpec, ...]
    decision: FleetDecision


def analyse(path: Path, options: Options | None = None, source: OnnxModel | None = None) -> Graph:
    """The graph of a model after all passes, as ``disaggc inspect`` shows it.

    Args:
        path: The .onnx file.
        options: How.
        source: What ``open_model(path)`` returned, if the caller has it already.

    Raises:
        ModelError: The file is no model, or contradicts itself.
    """
    options = options or Options()

    def after(name: str, result: Graph) -> None:
        options.tell(f"pass {name}")
        options.after_pass(name, result)

    with _uncollected():
        options.tell("reading the model")
        graph = read_graph(path, source)
        return run(graph, load_pipeline(options.pipeline, options.library), after)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: a large graph is millions of objects, all alive, without cycles."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
