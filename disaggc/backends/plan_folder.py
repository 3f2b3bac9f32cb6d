"""Writes the plan folder: plan.json, ops.csv, machines.csv, the subgraphs, and where the model lay."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from disaggc import __version__
from disaggc.backends.cutting import cut
from disaggc.backends.heads import Laid, Spans, with_head_in_pieces
from disaggc.backends.machines import MACHINES, write_machines
from disaggc.backends.onnxruntime import Part, subgraphs, write_models
from disaggc.errors import OutputError
from disaggc.frontends import sha256
from disaggc.ir import Graph, Phase
from disaggc.passes.contents import Contents, contents
from disaggc.placement import blueprint
from disaggc.placement.burden import DIGITS, OpLoad, OpLoads, role_loads
from disaggc.placement.decide import Decision
from disaggc.placement.frontier import frontier
from disaggc.placement.moves import moves
from disaggc.placement.objective import SubFleet
from disaggc.placement.stages import lay_out
from disaggc.placement.wiring import Border, phase_plan
from disaggc.plans import (
    FORMAT,
    VERSION,
    Formats,
    Goal,
    Job,
    ModelRef,
    PhasePlan,
    Plan,
    Stage,
    TierSpec,
    dump_plan,
)

OP_COLUMNS = ("phase", "node", "name", "op", "layer", "role", "pool", "stage", "flops", "bytes")


@contextlib.contextmanager
def fresh_folder(output: Path, force: bool, what: str = "plan", holds: str = "plan.json") -> Iterator[Path]:
    """A temporary folder that becomes ``output`` if the block ends well, and vanishes otherwise.

    With ``force`` an existing ``output`` is moved aside, and back if the new one cannot take its place; it
    is never half overwritten, not by an error and not by Ctrl-C.

    Args:
        output: The folder to be.
        force: Whether it may replace one.
        what: What the folder is, for messages.
        holds: The file by which a folder of that kind is known; no other is replaced.

    Raises:
        OutputError: ``output`` exists, or its parent cannot be written.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"'{output}' is a file, and a {what} is a folder. Choose another name.")
    if output.exists() and not force:
        raise OutputError(f"'{output}' exists already. Choose another folder, or add --force to replace it.")
    if output.exists() and not (output / holds).is_file() and any(output.iterdir()):
        raise OutputError(
            f"'{output}' holds no {what}, so --force will not replace it. Choose another folder."
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise OutputError(f"Cannot write to '{output.parent}': {error.strerror}.") from error
    try:
        yield folder
        _replace(folder, output)
    except OSError as error:
        raise OutputError(f"Cannot write '{output}': {error.strerror}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, output: Path) -> None:
    folder.chmod(0o755)
    if not output.exists():
        folder.rename(output)
        return
    aside = folder.with_name(f"{folder.name}.old")
    output.rename(aside)
    try:
        folder.rename(output)
    finally:
        if not output.exists():
            aside.rename(output)
    shutil.rmtree(aside, ignore_errors=True)


def write_plan(
    job: Job,
    tier: TierSpec,
    source: onnx.ModelProto,
    graph: Graph,
    decision: Decision,
    folder: Path,
    fleets: tuple[SubFleet, ...] = (),
) -> Plan:
    """Write everything into ``folder`` and return the plan.

    Args:
        job: As asked.
        tier: Its tier with every field filled in.
        source: The model that ``graph`` was read from.
        graph: Analysed.
        decision: What was chosen.
        folder: Exists and is empty.
        fleets: Parts of the fleet that were searched, the chosen one first.
    """
    spans = {phase: lay_out(graph, decision.request.pieces, decision.answer, phase) for phase in Phase}
    laid = with_head_in_pieces(source, graph, decision, spans)
    phases, models = _cut(source, laid, decision)
    files = write_models(models, folder)
    files["ops.csv"] = _write_ops(graph, decision, laid.spans, folder)
    arithmetic = (load.arithmetic for load in role_loads(decision))
    files[MACHINES] = write_machines(decision, arithmetic, folder)
    plan = _plan(job, tier, graph, decision, phases, dict(sorted(files.items())))
    warnings = (*plan.warnings, *laid.warnings)
    plan = replace(plan, fleets=blueprint.fleets(job.objective.name, fleets), warnings=warnings)
    (folder / "plan.json").write_bytes(dump_plan(plan))
    (folder / "model.path").write_text(f"{graph.source.parent.resolve()}\n", encoding="utf-8")
    return plan


def _cut(
    source: onnx.ModelProto, laid: Laid, decision: Decision
) -> tuple[dict[Phase, PhasePlan], dict[str, onnx.ModelProto]]:
    """Both phases, and the subgraphs by their paths; equal cuts share theirs."""
    same = laid.spans[Phase.PREFILL] == laid.spans[Phase.DECODE]
    phases: dict[Phase, PhasePlan] = {}
    models: dict[str, onnx.ModelProto] = {}
    graph, known = laid.graph, contents(laid.graph)
    for phase, spans in laid.spans.items():
        prefix = "stage" if same else phase.value
        paths = [f"subgraphs/{prefix}_{i:03d}.onnx" for i in range(len(spans))]
        parts = cut(laid.forms[phase], graph, spans, paths, known)
        if not models.keys() >= set(paths):
            models |= subgraphs(laid.forms[phase], graph.source, parts, _types(graph, parts))
        phases[phase] = phase_plan(graph, decision, spans, _borders(parts), paths, phase)
        if phase in laid.whole:
            path = f"subgraphs/{prefix}_head.onnx"
            head, subgraph = _whole_head(source, laid, decision, phase, path, known)
            phases[phase] = replace(phases[phase], whole_head=head)
            models |= subgraph
    return phases, models


def _whole_head(
    source: onnx.ModelProto,
    laid: Laid,
    decision: Decision,
    phase: Phase,
    path: str,
    known: Mapping[str, Contents],
) -> tuple[Stage, dict[str, onnx.ModelProto]]:
    """The head of a phase as one stage, and its subgraph by its path."""
    spans, graph = laid.whole[phase], laid.graph
    paths = [path if i == laid.head else "" for i in range(len(spans))]
    parts = cut(source, graph, spans, paths, known)
    head = parts[laid.head]
    stages = phase_plan(graph, decision, spans, _borders(parts), paths, phase).stages
    return stages[laid.head], subgraphs(source, graph.source, [head], _types(graph, [head]))


def _borders(parts: Sequence[Part]) -> list[Border]:
    return [(part.inputs, part.outputs) for part in parts]


def _types(graph: Graph, parts: Sequence[Part]) -> dict[str, onnx.TypeProto]:
    """Types of the values that cross, as the frontend knows them; symbolic extents stay open."""
    found = {}
    for name in dict.fromkeys(n for part in parts for n in (*part.inputs, *part.outputs)):
        value = graph.values.get(name)
        if value is not None and value.dtype is not None:
            code = onnx.TensorProto.DataType.Value(value.dtype.name)
            shape = None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
            found[name] = onnx.helper.make_tensor_type_proto(code, shape)
    return found


def _write_ops(graph: Graph, decision: Decision, spans: Spans, folder: Path) -> str:
    """ops.csv: every op once per phase; flops and bytes on one device, none without a price.

    Returns its SHA-256.
    """
    path = folder / "ops.csv"
    names = decision.answer.configuration.pricing.names
    loads = OpLoads(graph, decision)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(OP_COLUMNS)
        for phase in Phase:
            where = {i: (s.place, k) for k, s in enumerate(spans[phase]) for i in s.nodes}
            for i, (node, mark) in enumerate(zip(graph.nodes, graph.marks, strict=True)):
                layer = "" if mark.layer is None else mark.layer
                place, stage = where[i]
                told = (phase.value, i, node.name, node.kind, layer, mark.role.value, names[place], stage)
                writer.writerow((*told, *_amounts(loads.of(i, place, phase))))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _amounts(load: OpLoad | None) -> tuple[str, str]:
    return ("", "") if load is None else (f"{load.flops:.{DIGITS}g}", f"{load.bytes:.{DIGITS}g}")


def _plan(
    job: Job,
    tier: TierSpec,
    graph: Graph,
    decision: Decision,
    phases: Mapping[Phase, PhasePlan],
    files: dict[str, str],
) -> Plan:
    assert graph.workload is not None and tier.tokens_per_s_per_user is not None and tier.ttft_ms is not None
    weakest, inferred = blueprint.provenance(decision)
    return Plan(
        format=FORMAT,
        version=VERSION,
        compiler=__version__,
        model=model_ref(graph),
        goal=Goal(
            tier.name,
            tier.tokens_per_s_per_user,
            tier.ttft_ms,
            tier.price_usd_per_mtok,
            job.objective.name,
        ),
        formats=Formats(job.model.weights, job.model.kv, job.model.activations),
        mode=decision.mode,
        pools=blueprint.pools(decision),
        schedule=blueprint.schedule(decision),
        states=blueprint.states(graph),
        feeds=blueprint.feeds(graph),
        logits=graph.workload.logits,
        decode=phases[Phase.DECODE],
        prefill=phases[Phase.PREFILL],
        prediction=blueprint.prediction(decision, tier.price_usd_per_mtok),
        alternatives=blueprint.alternatives(decision),
        rejections=tuple(f"{o.mode}: {o.reason}" for o in decision.options if o.answer is None),
        certificate=blueprint.certificate(decision, "OR-Tools CP-SAT"),
        weakest=weakest,
        inferred=inferred,
        warnings=graph.warnings,
        loads=role_loads(decision),
        moves=moves(decision),
        frontier=frontier(decision),
        inputs={graph.source.name: sha256(graph.source)},
        files=files,
    )


def model_ref(graph: Graph) -> ModelRef:
    """The model file that a graph was read from."""
    weights = [w for w in graph.weights.values() if w.integers is None]
    located = sorted({w.file.location for w in weights if w.file is not None})
    return ModelRef(
        name=graph.name,
        file=graph.source.name,
        sha256=sha256(graph.source),
        nodes=len(graph.nodes),
        layers=len(graph.layers),
        parameters=sum(w.elements for w in weights),
        weight_files=tuple(located),
    )
