"""Writes a plan folder out in the form of a serving stack, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from disaggc import __version__
from disaggc.backends.emitters.order import (
    Emitter,
    FleetEmitter,
    Order,
    Settings,
    Together,
    Written,
    check_settings,
)
from disaggc.backends.emitters.registry import emitter
from disaggc.backends.emitters.serving import LABEL_LENGTH, slug
from disaggc.backends.plan_folder import fresh_folder
from disaggc.errors import JobError, PlanError, nearest
from disaggc.frontends import sha256
from disaggc.plans import FleetPlan, ReplicaPlan, is_fleet, open_fleet, open_plan
from disaggc.targets import Library, load_library

MANIFEST = "emitted.json"
"""What was written, from which plan; by it ``--force`` knows a folder that it may replace."""

EXACT = 1e-9
"""What a share of replicas may be off by in floating point before it is rounded up."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """What was written.

    Attributes:
        backend: Its form.
        output: The folder.
        files: Paths in it.
        notes: Where the stack will differ from the plan, or needs a hand.
        start: How it is used.
    """

    backend: str
    output: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]
    start: str


def emit(
    folder: Path,
    backend: str,
    output: Path,
    settings: Settings | None = None,
    *,
    only: Sequence[str] = (),
    force: bool = False,
    library: Path | None = None,
) -> Emitted:
    """Write a plan, or each plan of a fleet, out in the form of ``backend``.

    Args:
        folder: The plan folder; of a fleet, each deployment becomes a folder of ``output``.
        backend: One of ``BACKENDS``.
        output: The folder to write; it appears whole or not at all.
        settings: What the plan does not know.
        only: Of a fleet these deployments alone; all of them if none is named.
        force: Replace a folder that was emitted before.
        library: The user's own declarations, if the plan was compiled with them.

    Raises:
        JobError: There is no such backend, or a setting that it needs is missing.
        PlanError: The plan folder is at fault, the backend cannot express the plan, or the output exists.
    """
    chosen = emitter(backend)
    settings = settings or Settings()
    check_settings(backend, chosen, settings)
    machines = load_library(library)
    with fresh_folder(output, force, "deployment", MANIFEST) as fresh:
        wanted = _selected(deployments(folder), only)
        orders = {d.name: _order(d, settings, machines) for d in wanted}
        written = {d.name: _emit_plan(chosen, d, orders[d.name], fresh) for d in wanted}
        if isinstance(chosen, FleetEmitter) and is_fleet(folder):
            written |= _emit_together(chosen, folder, orders, settings, fresh)
        notes = tuple(dict.fromkeys(f"{n}: {x}" if n else x for n, w in written.items() for x in w.notes))
        files = _files(fresh)
        _write_manifest(fresh, backend, folder, notes, files)
    starts = (f"in {name}: {w.start}" if name else w.start for name, w in written.items())
    return Emitted(backend, output, tuple(files), notes, "; ".join(filter(None, starts)))


@dataclass(frozen=True, slots=True)
class Deployment:
    """A plan folder to be written out.

    Attributes:
        name: In its fleet; '' for a plan by itself.
        folder: The plan folder, of one replica.
        copies: Replicas of it.
        prefill_copies: Replicas of its prefill, where that is apart.
        notes: What a fleet says and its deployments cannot.
    """

    name: str
    folder: Path
    copies: int = 1
    prefill_copies: int = 1
    notes: tuple[str, ...] = ()


def deployments(folder: Path) -> tuple[Deployment, ...]:
    """What is in a folder: a plan, or those of a fleet.

    Raises:
        PlanError: There is no plan, or a fleet has none that decodes.
    """
    if not is_fleet(folder):
        return (Deployment("", folder),)
    fleet = open_fleet(folder)
    found = tuple(_deployment(fleet, replica, folder) for replica in fleet.replicas if replica.plan)
    if not found:
        raise PlanError(f"Fleet '{folder}' runs nothing, so there is nothing to write.")
    return found


def _selected(found: Sequence[Deployment], only: Sequence[str]) -> tuple[Deployment, ...]:
    """Those that were named.

    Raises:
        JobError: There is none of this name.
    """
    names = [deployment.name for deployment in found]
    for name in only:
        if name not in names:
            known = nearest(name, names) if any(names) else " The folder is of one plan; leave it out."
            raise JobError(f"--deployment '{name}': there is none of this name.{known}")
    return tuple(deployment for deployment in found if not only or deployment.name in only)


def _deployment(fleet: FleetPlan, replica: ReplicaPlan, folder: Path) -> Deployment:
    """One kind of replica, with its share of those that prefill for its tier, rounded up."""
    stream = (replica.tier, replica.home)
    prefill = [r for r in fleet.replicas if r.form == "prefill" and (r.tier, r.home) == stream]
    decode = [r for r in fleet.replicas if r.form == "decode" and (r.tier, r.home) == stream]
    total = sum(r.planned_requests_per_s for r in decode)
    share = replica.planned_requests_per_s / total if total else 1.0
    copies = math.ceil(share * sum(r.replicas for r in prefill) - EXACT) if prefill else 1
    notes = _fleet_notes(replica, prefill, decode)
    return Deployment(replica.name, folder / replica.plan, replica.replicas, max(1, copies), notes)


def _fleet_notes(
    replica: ReplicaPlan, prefill: Sequence[ReplicaPlan], decode: Sequence[ReplicaPlan]
) -> tuple[str, ...]:
    """What of a replica, of those that prefill for it and of its equals, its own plan folder cannot say."""
    notes = [
        f"Its drafter, on {group.devices} devices of {group.system}, is not written: add it to the engine."
        for group in replica.groups
        if group.part == "drafter"
    ]
    if len(prefill) > 1:
        notes.append("Prefill replicas are of several shapes in the fleet's plan; all are written as one.")
    if prefill and len(decode) > 1:
        notes.append("Prefill replicas serve several kinds that decode: each has its share, rounded up.")
    return tuple(notes)


def _named(settings: Settings, deployment: Deployment) -> Settings:
    """Settings under which deployments of a fleet do not get the same name."""
    if not deployment.name:
        return settings
    own = settings.name or open_plan(deployment.folder).model.name
    room = LABEL_LENGTH - len(slug(deployment.name)) - 1
    return replace(settings, name=f"{slug(own)[: max(room, 1)]}-{deployment.name}")


def _order(deployment: Deployment, settings: Settings, machines: Library) -> Order:
    folder, own = deployment.folder, _named(settings, deployment)
    plan, model_folder = open_plan(folder), _model_folder(folder, own)
    if plan.sharding:
        raise PlanError(f"'{folder}' is shared out to be run here. Emit the plan that it was made of.")
    return Order(plan, folder, model_folder, machines, own, deployment.copies, deployment.prefill_copies)


def _emit_together(
    chosen: FleetEmitter, folder: Path, orders: Mapping[str, Order], settings: Settings, fresh: Path
) -> dict[str, Written]:
    """What the emitter writes of the fleet as one, beside the deployments."""
    shared = {name: replace(order, settings=settings) for name, order in orders.items()}
    written = chosen.emit_fleet(Together(open_fleet(folder), shared), fresh)
    return {} if written is None else {"": written}


def _emit_plan(chosen: Emitter, deployment: Deployment, order: Order, fresh: Path) -> Written:
    target = fresh / deployment.name
    target.mkdir(exist_ok=True)
    try:
        written = chosen.emit(order, target)
    except (JobError, PlanError) as error:
        if not deployment.name:
            raise
        others = "Write the others with --deployment NAME."
        raise type(error)(f"Deployment '{deployment.name}': {error} {others}") from error
    return Written((*written.notes, *deployment.notes), written.start)


def _write_manifest(
    fresh: Path, backend: str, folder: Path, notes: tuple[str, ...], files: dict[str, str]
) -> None:
    manifest = {
        "format": "disaggc.emitted",
        "version": 1,
        "compiler": __version__,
        "backend": backend,
        "plan": sha256(folder / "plan.json"),
        "notes": notes,
        "files": files,
    }
    (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _model_folder(folder: Path, settings: Settings) -> Path:
    if settings.model is not None:
        return settings.model
    try:
        return Path((folder / "model.path").read_text(encoding="utf-8").strip())
    except OSError as error:
        raise PlanError(f"'{folder}' does not say where its model is. Add --model FOLDER.") from error


def _files(folder: Path) -> dict[str, str]:
    """Every file with its SHA-256; a weight file that was linked is named, not read."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        linked = path.stat().st_nlink > 1
        found[path.relative_to(folder).as_posix()] = "linked" if linked else _digest(path)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
