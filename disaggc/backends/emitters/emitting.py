"""Writes a plan folder out in the form of a serving stack, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from disaggc import __version__
from disaggc.backends.emitters.order import Order, Settings, check_settings
from disaggc.backends.emitters.registry import emitter
from disaggc.backends.plan_folder import fresh_folder
from disaggc.errors import PlanError
from disaggc.frontends import sha256
from disaggc.plans import open_plan
from disaggc.targets import load_library

MANIFEST = "emitted.json"
"""What was written, from which plan; by it ``--force`` knows a folder that it may replace."""


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
    """Write a plan out in the form of ``backend``.

    Args:
        folder: The plan folder.
        backend: One of ``registry.BACKENDS``.
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
    order = Order(open_plan(folder), folder, _model_folder(folder, settings), load_library(library), settings)
    with fresh_folder(output, force, "deployment", MANIFEST) as fresh:
        written = chosen.emit(order, fresh)
        files = _files(fresh)
        manifest = {
            "format": "disaggc.emitted",
            "version": 1,
            "compiler": __version__,
            "backend": backend,
            "plan": sha256(folder / "plan.json"),
            "notes": list(written.notes),
            "files": files,
        }
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return Emitted(backend, output, tuple(files), written.notes, written.start)


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
