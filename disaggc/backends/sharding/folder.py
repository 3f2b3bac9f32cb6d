"""Writes the folder of a plan whose pools are shared out: an ordinary plan folder, of more pools."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from disaggc.backends.emitters.op_table import TABLE as OPS
from disaggc.backends.emitters.op_table import read_ops
from disaggc.backends.machines import MACHINES
from disaggc.backends.onnxruntime.weights import TABLE as WEIGHTS
from disaggc.backends.onnxruntime.weights import table
from disaggc.backends.plan_folder import fresh_folder
from disaggc.backends.sharding.degrees import degrees_of
from disaggc.backends.sharding.phase import Lowered, PhaseLowering, Turn, shard_name
from disaggc.backends.sharding.scheme import Degree
from disaggc.errors import PlanError
from disaggc.ir import Phase, Role
from disaggc.plans import PhasePlan, Plan, Pool, Sharding, SharedOps, dump_plan, is_fleet, open_plan

SHARES = "shards.csv"
COLUMNS = ("phase", "stage", "pool", "layer", "node", "op", "rule", "from", "to", "of")
KINDS = {"tp": "tensor parallel", "ep": "expert parallel"}


def share_out(
    folder: Path,
    output: Path,
    asked: Mapping[str, Degree],
    model_folder: Path | None = None,
    force: bool = False,
) -> Plan:
    """Write a plan in which each shard of a pool is a pool of its own, with its share of the weights.

    Args:
        folder: A plan folder.
        output: The folder to write; it appears whole or not at all.
        asked: Degree of each pool to share out; nothing for the plan's own.
        model_folder: Where the plan's model lies, if it moved; asked for types that the plan does not tell.
        force: Replace a plan folder that exists.

    Returns:
        The plan as written.

    Raises:
        JobError: A degree makes no sense, or a network can't be cut that way.
        PlanError: The plan folder is at fault, is shared out already, or the output exists.
    """
    plan = _opened(folder)
    ops = read_ops(folder)
    lies = _model_folder(folder) if model_folder is None else model_folder
    degrees = degrees_of(plan, ops, asked)
    with fresh_folder(output, force) as fresh:
        lowering = PhaseLowering(plan, folder, lies / plan.model.file, ops, degrees)
        phases = {phase: lowering.lowered(phase, planned) for phase, planned in _phases(plan).items()}
        files = {**_write_graphs(phases.values(), fresh), MACHINES: _copied(folder, fresh, MACHINES)}
        files[OPS] = _write(fresh / OPS, _ops(folder, phases))
        files[SHARES] = _write(fresh / SHARES, _shares(phases))
        (fresh / "model.path").write_text(f"{lies.resolve()}\n", encoding="utf-8")
        changed = replace(
            plan,
            pools=tuple(p for pool in plan.pools for p in _pools(pool, degrees.get(pool.name))),
            decode=phases[Phase.DECODE].plan,
            prefill=phases[Phase.PREFILL].plan,
            sharding=tuple(_sharding(pool, degree, phases) for pool, degree in degrees.items()),
            files=dict(sorted(files.items())),
        )
        (fresh / "plan.json").write_bytes(dump_plan(changed))
    return changed


def _opened(folder: Path) -> Plan:
    if is_fleet(folder):
        raise PlanError(f"'{folder}' is the plan of a whole fleet. Name one of its deployments.")
    plan = open_plan(folder)
    if plan.sharding:
        raise PlanError(f"'{folder}' is shared out already. Start from the plan that it was made of.")
    return plan


def _model_folder(folder: Path) -> Path:
    try:
        return Path((folder / "model.path").read_text(encoding="utf-8").strip())
    except OSError as error:
        raise PlanError(f"'{folder}' does not say where its model is. Add --model FOLDER.") from error


def _phases(plan: Plan) -> dict[Phase, PhasePlan]:
    return {Phase.PREFILL: plan.prefill, Phase.DECODE: plan.decode}


def _write_graphs(phases: Iterable[Lowered], folder: Path) -> dict[str, str]:
    models = {turn.stage.subgraph: turn.model for phase in phases for turn in phase.turns}
    files = {
        path: _write(folder / path, m.SerializeToString(deterministic=True)) for path, m in models.items()
    }
    return {**files, WEIGHTS: _write(folder / WEIGHTS, table(models).encode())}


def _write(path: Path, data: bytes) -> str:
    """Returns the SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _copied(source: Path, target: Path, name: str) -> str:
    return _write(target / name, (source / name).read_bytes())


def _pools(pool: Pool, degree: Degree | None) -> Iterator[Pool]:
    """The pools that stand for a pool; the first also does what is not shared out."""
    if degree is None:
        yield pool
        return
    within = replace(
        pool.parallelism, **{degree.kind: max(getattr(pool.parallelism, degree.kind) // degree.shards, 1)}
    )
    network = {role.value for role in (Role.ROUTER, Role.EXPERTS, Role.SHARED_EXPERT, Role.FFN)}
    shared = tuple(role for role in pool.roles if network & set(role.replace(",", " ").split()))
    for shard in range(degree.shards):
        yield replace(
            pool,
            name=shard_name(pool.name, shard),
            devices=max(pool.devices // degree.shards, 1),
            parallelism=within,
            roles=pool.roles if shard == 0 else shared or pool.roles,
        )


def _sharding(pool: str, degree: Degree, phases: Mapping[Phase, Lowered]) -> Sharding:
    counted: dict[tuple[str, str, str], list[int | None]] = {}
    for phase, lowered in phases.items():
        for turn, index, rule in _seeds(lowered):
            op = turn.origin.ops[index]
            if op is not None and op.pool == pool:
                key = (phase.value, op.role, rule)
                counted.setdefault(key, []).append(op.layer)
    shards = tuple(shard_name(pool, i) for i in range(degree.shards))
    rows = tuple(_counted(key, layers, degree) for key, layers in counted.items())
    return Sharding(pool, KINDS[degree.kind], shards, rows)


def _counted(key: tuple[str, str, str], layers: Sequence[int | None], degree: Degree) -> SharedOps:
    phase, role, rule = key
    known = [layer for layer in layers if layer is not None]
    ops = len(layers) if rule == "expert term" else len(layers) // degree.shards
    return SharedOps(phase, role, rule, ops, (min(known), max(known)) if known else ())


def _seeds(lowered: Lowered) -> Iterator[tuple[Turn, int, str]]:
    """Each cut op with each turn that computes a share of it."""
    for turn in lowered.turns:
        scheme = lowered.schemes.get(turn.origin.path)
        seeds = {} if scheme is None else scheme.seeds
        yield from ((turn, index, seeds[index].rule) for index in turn.nodes if index in seeds)


def _shares(phases: Mapping[Phase, Lowered]) -> bytes:
    """shards.csv: which run of which axis of which op each shard computes."""
    rows: list[tuple[object, ...]] = [COLUMNS]
    for phase, lowered in phases.items():
        for turn, index, rule in _seeds(lowered):
            op, node = turn.origin.ops[index], turn.origin.nodes[index]
            cuts = lowered.schemes[turn.origin.path].seeds[index].cuts
            cut = dataclasses.astuple(cuts[turn.shard]) if cuts else ("", "", "")
            told = (op.layer, op.node, op.op) if op is not None else ("", "", node.op_type)
            rows.append((phase.value, turn.stage.index, turn.stage.pool, *told, rule, *cut))
    return _csv(rows)


def _ops(folder: Path, phases: Mapping[Phase, Lowered]) -> bytes:
    """ops.csv as it was, with the stage and pool that now compute each op; of shards the first that does."""
    places = {phase: _places(lowered.turns) for phase, lowered in phases.items()}
    with (folder / OPS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    head = rows[0]
    pool, stage, node = head.index("pool"), head.index("stage"), head.index("node")
    for row in rows[1:]:
        turn = places[Phase(row[0])].get(int(row[node])) or places[Phase(row[0])][-1 - int(row[stage])]
        row[pool], row[stage] = turn.stage.pool, str(turn.stage.index)
    return _csv(rows)


def _places(turns: Sequence[Turn]) -> dict[int, Turn]:
    """Node of the model to the first turn that computes it; ``-1 - stage`` to that stage's first turn."""
    found: dict[int, Turn] = {}
    for turn in turns:
        for index in turn.nodes:
            op = turn.origin.ops[index]
            if op is not None:
                found.setdefault(op.node, turn)
        for op in turn.origin.ops:
            if op is not None:
                found.setdefault(-1 - op.stage, turn)
    return found


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
