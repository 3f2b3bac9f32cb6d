"""The whole way on one screen: an ONNX model and a job become a plan folder.

read -> passes -> fold -> decide -> lay out -> cut -> write
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from disaggc.backends.plan_folder import fresh_folder, write_plan
from disaggc.errors import InfeasiblePlanError
from disaggc.frontends import OnnxModel, open_model, read_graph, unfused
from disaggc.ir import Graph
from disaggc.passes import load_pipeline, run
from disaggc.placement.decide import Decision, decide
from disaggc.placement.objective import SubFleet, choose_fleet
from disaggc.placement.request import request_of, resolve_tier
from disaggc.plans import Job, Plan, with_trace
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
        library = load_library(options.library)
        tier = resolve_tier(with_trace(job.tier[0], root), library)
        path = root / job.model.onnx
        options.tell("reading the model")
        source = open_model(path)

        def decided(form: OnnxModel) -> Decided:
            graph = analyse(path, options, form)
            wanted = request_of(job, tier, graph, library)
            wanted, fleets = choose_fleet(wanted, job.objective.name, options.tell)
            return Decided(form, graph, decide(wanted, options.tell), fleets)

        best = better_form(source, decided, cuts=len(job.fleet) > 1)
        options.tell("writing subgraphs")
        return write_plan(job, tier, best.form, best.graph, best.decision, folder, best.fleets)


@dataclass(frozen=True, slots=True)
class Decided:
    """One form of a model, the best plan for it, and the parts of the fleet that were searched for that."""

    form: OnnxModel
    graph: Graph
    decision: Decision
    fleets: tuple[SubFleet, ...] = ()

    @property
    def score(self) -> float:
        """How good the plan is at the objective; more is better."""
        return self.fleets[0].score if self.fleets else self.decision.answer.tokens_per_s


def better_form(source: OnnxModel, decided: Callable[[OnnxModel], Decided], cuts: bool) -> Decided:
    """The plan for the model as it is, or for the one with its fused norms split, whichever is faster.

    Split, one tensor crosses before a norm where two did, for one more kernel. Without a second system
    nothing crosses.

    Raises:
        InfeasiblePlanError: No plan of either form meets the tier.
    """
    split = unfused(source) if cuts else None
    if split is None:
        return decided(source)
    try:
        as_it_is = decided(source)
    except InfeasiblePlanError:
        return _noted(decided(split))
    with contextlib.suppress(InfeasiblePlanError):
        other = decided(split)
        if other.score > as_it_is.score:
            return _noted(other)
    return as_it_is


def _noted(split: Decided) -> Decided:
    """The same with a warning, because ops.csv and the subgraphs hold ops that the file does not."""
    note = "fused skip-and-normalise ops are split into add and norm: fewer bytes cross between pools."
    return replace(split, graph=replace(split.graph, warnings=(*split.graph.warnings, note)))


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
