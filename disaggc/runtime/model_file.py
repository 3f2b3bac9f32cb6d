"""The model file that a plan was compiled from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from disaggc.errors import ModelError, PlanError
from disaggc.plans import ModelRef
from disaggc.runtime.weights import is_outside


def find_model(model: ModelRef, folder: Path) -> Path:
    """The path of the model file.

    Raises:
        ModelError: It is not in the folder.
        PlanError: Another model has its name.
    """
    check_model(model, folder)
    path = folder / model.file
    if not path.is_file():
        raise ModelError(
            f"No model '{model.file}' in '{folder}'. Name the folder that holds it with --model."
        )
    return path


def check_model(model: ModelRef, folder: Path) -> None:
    """Check that the model file, if it is there at all, is the one that was compiled.

    Subgraphs point into weight files by offset: those of another model would be read as garbage.

    Raises:
        PlanError: Another model has its name, or the name leads out of the folder.
    """
    if is_outside(model.file, folder):
        raise PlanError(
            f"The plan names the model '{model.file}', outside its folder '{folder}'. Compile it again."
        )
    path = folder / model.file
    if not model.sha256 or not path.is_file():
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise PlanError(
            f"'{path}' is not the model that the plan was compiled from: its SHA-256 begins with "
            f"{found[:12]}, the plan's with {model.sha256[:12]}. Compile the plan again, or name the right "
            f"folder with --model."
        )
