"""Writes a plan folder out in the form of a serving stack, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from disaggc import __version__
from disaggc.backends.emitters.order import Emitter, Order, Settings, Written, check_settings
from disaggc.backends.emitters.registry import emitter
from disaggc.backends.emitters.serving import LABEL_LENGTH, slug
from disaggc.backends.plan_folder import fresh_folder
from disaggc.errors import PlanError
from disaggc.frontends import sha256
from disaggc.plans import open_plan
from disaggc.targets import Library, load_library

MANIFEST = "emitted.json"
"""What was written, from which plan; by it ``--force`` knows a folder that it may replace."""

FLEET = "disaggc.fleet"
"""The format of a folder that holds a plan folder for each of several deployments."""


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
    force: bool = False,
    library: Path | None = None,
) -> Emitted:
    """Write a plan, or each plan of a fleet, out in the form of ``backend``.

    Args:
        folder: The plan folder; of a fleet, each deployment becomes a folder of ``output``.
        backend: One of ``BACKENDS``.
        output: The folder to write; it appears whole or not at all.
        settings: What the plan does not know.
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
        written = {}
        for name, plan_folder in deployments(folder).items():
            own = settings if not name else _named(settings, name, plan_folder)
            target = fresh / name
            target.mkdir(exist_ok=True)
            written[name] = _emit_plan(chosen, plan_folder, target, own, machines)
        notes = tuple(dict.fromkeys(f"{n}: {x}" if n else x for n, w in written.items() for x in w.notes))
        files = _files(fresh)
        _write_manifest(fresh, backend, folder, notes, files)
    starts = (f"in {name}: {w.start}" if name else w.start for name, w in written.items())
    return Emitted(backend, output, tuple(files), notes, "; ".join(starts))


def deployments(folder: Path) -> dict[str, Path]:
    """The plan folders of a fleet by name; a plan folder itself, under no name, if it is none.

    Raises:
        PlanError: A fleet has none.
    """
    if not _is_fleet(folder):
        return {"": folder}
    found = {path.parent.name: path.parent for path in sorted(folder.glob("deployments/*/plan.json"))}
    if not found:
        raise PlanError(f"Fleet '{folder}' has no plan in deployments/. Compile it again.")
    return found


def _is_fleet(folder: Path) -> bool:
    """Whether plan.json is of a fleet; whatever else is wrong with it, ``open_plan`` tells better."""
    try:
        data = json.loads((folder / "plan.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("format") == FLEET


def _named(settings: Settings, name: str, folder: Path) -> Settings:
    """Settings under which deployments of a fleet do not get the same name."""
    own = settings.name or open_plan(folder).model.name
    room = LABEL_LENGTH - len(slug(name)) - 1
    return replace(settings, name=f"{slug(own)[: max(room, 1)]}-{name}")


def _emit_plan(chosen: Emitter, folder: Path, target: Path, settings: Settings, machines: Library) -> Written:
    plan, model_folder = open_plan(folder), _model_folder(folder, settings)
    return chosen.emit(Order(plan, folder, model_folder, machines, settings), target)


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
