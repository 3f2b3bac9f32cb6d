"""The ONNX model that a plan was compiled from, and its weights beside what is written of it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import onnx

from disaggc.backends.emitters.op_table import Placed
from disaggc.backends.emitters.order import Order
from disaggc.errors import ModelError, OutputError, PlanError
from disaggc.frontends import open_model, sha256
from disaggc.ir import Phase


def model_path(order: Order) -> Path:
    """The model's file, which must be the one that was compiled.

    Raises:
        ModelError: It is not there.
        PlanError: Another model has its name.
    """
    path = order.model_folder / order.plan.model.file
    if not path.is_file():
        raise ModelError(
            f"No model '{order.plan.model.file}' in '{order.model_folder}'. "
            f"Name the folder that holds it with --model."
        )
    if sha256(path) != order.plan.model.sha256:
        raise PlanError(
            f"'{path}' is not the model that the plan was compiled from. Compile the plan again, or name the "
            f"right folder with --model."
        )
    return path


def planned_model(order: Order, ops: Iterable[Placed]) -> onnx.ModelProto:
    """The model as it was planned: node i of it is node i of the table of ops.

    Raises:
        PlanError: The table does not fit it.
    """
    source = open_model(model_path(order))
    wanted = [op.op.rpartition("::")[2] for op in ops if op.phase is Phase.DECODE]
    if [node.op_type for node in source.graph.node] != wanted:
        raise PlanError(
            f"The table of ops in '{order.folder}' does not fit the model. Compile the plan again."
        )
    return source


COPY_LIMIT_BYTES = 4 * 2**30
"""Weights of up to this size are copied; larger ones are linked."""


def place_weights(files: Iterable[str], order: Order, folder: Path) -> tuple[str, ...]:
    """Put weight files beside a model that refers to them.

    They are copied up to ``COPY_LIMIT_BYTES`` together. Beyond, they are hard links, which cost nothing and
    which onnxruntime takes; onnx's own checker then refuses them, there and in the model's own folder, too.

    Args:
        files: Names relative to the model's folder; the model's own file may be among them.
        order: What is emitted.
        folder: Where the model that refers to them lies.

    Returns:
        What a person should know about them.

    Raises:
        OutputError: One cannot be copied.
    """
    source = order.model_folder
    names = list(dict.fromkeys(files))
    there = [name for name in names if (source / name).is_file()]
    links = sum((source / name).stat().st_size for name in there) > COPY_LIMIT_BYTES
    linked = [name for name in there if _placed(source / name, folder / name, links)]
    notes = [
        f"Weights '{name}' are not in '{source}': put them there." for name in names if name not in there
    ]
    if linked:
        notes.append("Weights are hard links, which onnx.checker refuses: copy them for it.")
    return tuple(notes)


def _placed(file: Path, target: Path, links: bool) -> bool:
    """Put a file in its place. Returns whether it is a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if links:
        with contextlib.suppress(OSError):
            target.hardlink_to(file.resolve())
            return True
    try:
        shutil.copyfile(file, target)
    except OSError as error:
        raise OutputError(f"Cannot copy '{file}' to '{target.parent}': {error.strerror}.") from error
    return False
