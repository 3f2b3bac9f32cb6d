"""Checks that the weights which a plan's subgraphs refer to are there, before anything is opened."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from disaggc.errors import PlanError, WeightsError
from disaggc.records import structure

TABLE = "subgraphs/weights.json"


@dataclass(frozen=True, slots=True)
class WeightUse:
    """Where the bytes of one initializer lie: a file of the model's folder, and bytes within it."""

    file: str
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WeightTable:
    """``subgraphs/weights.json``: part to initializer to its place."""

    format: str
    version: int
    parts: dict[str, dict[str, WeightUse]]


def read_table(folder: Path) -> WeightTable:
    """The table of a plan folder.

    Raises:
        PlanError: It is missing, or is no such table.
    """
    path = folder / TABLE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(
            f"Plan folder '{folder}' has no '{TABLE}'. Compile the plan with its model at hand."
        ) from error
    except ValueError as error:
        raise PlanError(f"'{path}' is not JSON: {error}. Compile the plan again.") from error
    return structure(data, WeightTable, str(path), PlanError)


def check_weights(table: WeightTable, parts: Iterable[str], model_folder: Path) -> None:
    """Check every file that the parts refer to: inside the model's folder, there, and long enough.

    Args:
        table: The plan's table of weights.
        parts: The subgraphs that will be opened.
        model_folder: The folder that weight files are relative to.

    Raises:
        WeightsError: A file is missing, outside the folder, or too short.
    """
    ends: dict[str, int] = {}
    for part in parts:
        for use in table.parts.get(part, {}).values():
            ends[use.file] = max(ends.get(use.file, 0), use.offset + use.length)
    for file, end in sorted(ends.items()):
        _check_file(file, end, model_folder)


def _check_file(file: str, end: int, folder: Path) -> None:
    if is_outside(file, folder):
        raise WeightsError(
            f"Weights file '{file}' lies outside the model's folder '{folder}'. "
            f"Move it there and name it relative to the model."
        )
    path = folder / file
    if not path.is_file():
        raise WeightsError(
            f"Weights file '{file}' is not in '{folder}'. Name the folder that holds it with --model."
        )
    size = path.stat().st_size
    if size < end:
        raise WeightsError(
            f"Weights file '{path}' has {size} bytes, but the model needs {end}. "
            f"Fetch it again: it is cut short."
        )


def is_outside(file: str, folder: Path) -> bool:
    """Whether a name leads out of a folder: on any system, whatever system this is, or over links."""
    absolute = PurePosixPath(file).is_absolute() or PureWindowsPath(file).is_absolute()
    climbs = ".." in PureWindowsPath(file).parts
    return absolute or climbs or not (folder / file).resolve().is_relative_to(folder.resolve())
