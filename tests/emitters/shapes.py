"""Plans of every shape, made from compiled ones, so that what the compiler chooses today does not matter."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from disaggc.plans import Parallelism, PhasePlan, Plan, Pool, Stage, dump_plan, open_plan

ATTENTION = ("embedding", "norm", "qkv", "core_attention", "out_projection", "head")
EXPERTS = ("norm", "router", "experts")


def rewritten(folder: Path, target: Path, **changes: Any) -> Path:
    """A plan folder with another plan.json over the same table of ops, without subgraphs."""
    plan = open_plan(folder)
    target.mkdir(parents=True)
    for name in ("ops.csv", "model.path"):
        shutil.copyfile(folder / name, target / name)
    changed = replace(plan, files={"ops.csv": plan.files["ops.csv"]}, **changes)
    (target / "plan.json").write_bytes(dump_plan(changed))
    return target


def pool(plan: Plan, system: str, tp: int, dp: int, name: str = "") -> Pool:
    """A pool of a whole system, with the memory map of the plan's first."""
    return replace(
        plan.pools[0],
        name=name or system,
        system=system,
        count=-(-tp * dp // 8),
        devices=tp * dp,
        available=-(-tp * dp // 8) * 8,
        parallelism=Parallelism(tp=tp, dp=dp, ep=tp * dp),
    )


def on_one_pool(folder: Path, target: Path, system: str, devices: int) -> Path:
    """A colocated plan with one data-parallel rank a device."""
    plan = open_plan(folder)
    shutil.copytree(folder, target)
    changed = replace(plan, pools=(pool(plan, system, 1, devices, plan.pools[0].name),))
    (target / "plan.json").write_bytes(dump_plan(changed))
    return target


def by_phase(folder: Path, target: Path) -> Path:
    """Prefill on L40S, decode on H20, each with subgraphs of its own."""
    plan = open_plan(folder)
    homes = {"prefill": "l40s-x8", "decode": "h20-x8"}
    shutil.copytree(folder, target)
    (subgraph,) = {stage.subgraph for stage in plan.decode.stages}
    phases = {name: _moved(getattr(plan, name), home, name) for name, home in homes.items()}
    _retable(target, subgraph, homes)
    files = {p.relative_to(target).as_posix(): _digest(p) for p in _kept(target)}
    changed = replace(
        plan,
        mode="P/D: prefill on l40s-x8, decode on h20-x8",
        pools=tuple(pool(plan, home, 1, 8) for home in homes.values()),
        prefill=phases["prefill"],
        decode=phases["decode"],
        files=dict(sorted(files.items())),
    )
    (target / "plan.json").write_bytes(dump_plan(changed))
    return target


def _moved(phase: PhasePlan, home: str, name: str) -> PhasePlan:
    (stage,) = phase.stages
    return PhasePlan((replace(stage, pool=home, subgraph=f"subgraphs/{name}_000.onnx"),))


def _retable(target: Path, subgraph: str, homes: dict[str, str]) -> None:
    """Give each phase a subgraph of its own, and its pool in the table of ops."""
    table = target / "subgraphs" / "weights.json"
    data = json.loads(table.read_text())
    weights = data["parts"].pop(subgraph)
    for name in homes:
        shutil.copyfile(target / subgraph, target / f"subgraphs/{name}_000.onnx")
        data["parts"][f"subgraphs/{name}_000.onnx"] = weights
    (target / subgraph).unlink()
    table.write_text(json.dumps(data))
    with (target / "ops.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (target / "ops.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "pool": homes[row["phase"]]} for row in rows)


def _kept(target: Path) -> list[Path]:
    return [p for p in target.rglob("*") if p.is_file() and p.name not in ("plan.json", "model.path")]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def experts_apart(folder: Path, target: Path) -> Path:
    """Attention on H20, router and experts on L40S, prefill whole on H20; without subgraphs."""
    plan = open_plan(folder)
    homes = ("h20-x8", ATTENTION), ("l40s-x8", EXPERTS)
    layers = range(plan.model.layers)
    stages = tuple(_stage(2 * i + k, *home, i) for i in layers for k, home in enumerate(homes))
    whole = replace(plan.prefill.stages[0], pool="h20-x8", subgraph="")
    return rewritten(
        folder,
        target,
        mode="AFD: attention on h20-x8, FFN on l40s-x8",
        pools=(pool(plan, "h20-x8", 1, 8), pool(plan, "l40s-x8", 8, 1)),
        prefill=PhasePlan((whole,)),
        decode=PhasePlan(stages),
    )


def _stage(index: int, home: str, roles: tuple[str, ...], layer: int) -> Stage:
    return Stage(index, home, (layer, layer), roles, "", (), ())
