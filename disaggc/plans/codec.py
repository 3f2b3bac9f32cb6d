"""plan.json: canonical bytes out, checked plan in."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema

from disaggc.errors import PlanError
from disaggc.library import shelf
from disaggc.plans.model import FORMAT, VERSION, Plan
from disaggc.records import structure, unstructure

DIGITS = 9
"""Significant digits of numbers: enough to plan with, few enough not to depend on a compiler's rounding."""


def dump_plan(plan: Plan) -> bytes:
    """The plan's canonical bytes: equal plans give equal bytes.

    Keys come in the order of the model's fields; floats have nine significant digits.
    """
    data = _rounded(unstructure(plan))
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_plan(data: bytes, where: str) -> Plan:
    """The plan in the bytes of a plan.json.

    Raises:
        PlanError: They are no JSON, no plan of this version, or do not match the schema.
    """
    try:
        parsed = json.loads(data)
    except (ValueError, UnicodeDecodeError) as error:
        raise PlanError(f"'{where}' is not JSON: {error}. Compile the plan again.") from error
    if not isinstance(parsed, dict) or parsed.get("format") != FORMAT:
        raise PlanError(f"'{where}' is no plan of disaggc: its 'format' is not '{FORMAT}'.")
    if parsed.get("version") != VERSION:
        raise PlanError(
            f"'{where}' has version {parsed.get('version')!r}; this disaggc reads {VERSION}. "
            f"Compile it again."
        )
    problem = next(iter(_validator().iter_errors(parsed)), None)
    if problem is not None:
        raise PlanError(f"'{where}', at {problem.json_path}: {problem.message}. Compile the plan again.")
    return structure(parsed, Plan, where, PlanError)


def open_plan(folder: Path, trust: bool = False) -> Plan:
    """The plan of a plan folder; its files must be those that were compiled.

    Args:
        folder: What ``disaggc compile -o`` wrote.
        trust: Do not compare the files' SHA-256.

    Raises:
        PlanError: There is no plan, or a file of it is missing or was changed.
    """
    path = folder / "plan.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(
            f"No plan in '{folder}': cannot read plan.json ({error.strerror}). "
            f"Make one: disaggc compile JOB.toml -o {folder}"
        ) from error
    plan = parse_plan(data, str(path))
    if not trust:
        _check_files(plan, folder)
    return plan


def _check_files(plan: Plan, folder: Path) -> None:
    root = folder.resolve()
    for name, digest in plan.files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(root):
            raise PlanError(f"Plan '{folder}' names '{name}', outside its own folder. Compile it again.")
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise PlanError(
                f"Plan '{folder}' lacks '{name}' ({error.strerror}). Compile it again."
            ) from error
        if found != digest:
            raise PlanError(
                f"'{name}' in plan '{folder}' was changed after it was compiled. Compile it again."
            )


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    schema: dict[str, Any] = json.loads((shelf("plans") / "plan.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
