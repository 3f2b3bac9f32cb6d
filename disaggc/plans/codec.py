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
from disaggc.plans.fleet import FLEET_FORMAT, FleetPlan
from disaggc.plans.model import FORMAT, VERSION, Plan
from disaggc.records import structure, unstructure

DIGITS = 9
"""Significant digits of numbers: enough to plan with, few enough not to depend on a compiler's rounding."""


def dump_plan(plan: Plan | FleetPlan) -> bytes:
    """The plan's canonical bytes: equal plans give equal bytes.

    Keys come in the order of the model's fields; floats have nine significant digits.
    """
    data = _rounded(unstructure(plan))
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_plan(data: bytes, where: str) -> Plan:
    """The plan in the bytes of a plan.json.

    Raises:
        PlanError: They are no JSON, no plan of this version, the plan of a fleet, or do not match the schema.
    """
    parsed = _parsed(data, where)
    if parsed.get("format") == FLEET_FORMAT:
        raise PlanError(_one_of(parsed, where))
    return structure(_checked(parsed, where, FORMAT, "plan"), Plan, where, PlanError)


def parse_fleet(data: bytes, where: str) -> FleetPlan:
    """The plan of a fleet in the bytes of its plan.json.

    Raises:
        PlanError: They are no JSON, the plan of one tier, no fleet plan of this version, or do not match
            the schema.
    """
    parsed = _parsed(data, where)
    if parsed.get("format") == FORMAT:
        raise PlanError(
            f"'{_folder(where)}' is the plan of one tier without a demand, and a fleet's is wanted. Give the "
            f"tier a demand (requests_per_s) and compile it again: then it is a fleet's."
        )
    return structure(_checked(parsed, where, FLEET_FORMAT, "fleet"), FleetPlan, where, PlanError)


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, UnicodeDecodeError) as error:
        raise PlanError(f"'{where}' is not JSON: {error}. Compile the plan again.") from error
    return parsed if isinstance(parsed, dict) else {}


def _checked(parsed: dict[str, Any], where: str, form: str, schema: str) -> dict[str, Any]:
    if parsed.get("format") != form:
        raise PlanError(f"'{where}' is no plan of disaggc: its 'format' is not '{form}'.")
    if parsed.get("version") != VERSION:
        raise PlanError(
            f"'{where}' has version {parsed.get('version')!r}; this disaggc reads {VERSION}. "
            f"Compile it again."
        )
    problem = next(iter(_validator(schema).iter_errors(parsed)), None)
    if problem is not None:
        raise PlanError(f"'{where}', at {problem.json_path}: {problem.message}. Compile the plan again.")
    return parsed


def _one_of(parsed: dict[str, Any], where: str) -> str:
    """The cure for a fleet where one deployment is wanted."""
    folder = _folder(where)
    replicas = [r for r in parsed.get("replicas", ()) if isinstance(r, dict) and r.get("plan")]
    named = ", ".join(f"{folder}/{r['plan']}" for r in replicas)
    return f"'{folder}' is the plan of a fleet. Name one of its deployments: {named or 'it has none'}."


def _folder(where: str) -> str:
    return where.removesuffix("plan.json").rstrip("/") or "."


def is_fleet(folder: Path) -> bool:
    """Whether a folder holds the plan of a fleet.

    Raises:
        PlanError: There is no plan.
    """
    return _parsed(_read(folder), str(folder / "plan.json")).get("format") == FLEET_FORMAT


def open_plan(folder: Path, trust: bool = False) -> Plan:
    """The plan of a plan folder; its files must be those that were compiled.

    Args:
        folder: What ``disaggc compile -o`` wrote.
        trust: Do not compare the files' SHA-256.

    Raises:
        PlanError: There is no plan, or a file of it is missing or was changed.
    """
    plan = parse_plan(_read(folder), str(folder / "plan.json"))
    if not trust:
        _check_files(plan.files, folder)
    return plan


def open_fleet(folder: Path, trust: bool = False) -> FleetPlan:
    """The plan of a fleet's folder; the same holds.

    Raises:
        PlanError: There is no such plan, or a file of it is missing or was changed.
    """
    plan = parse_fleet(_read(folder), str(folder / "plan.json"))
    if not trust:
        _check_files(plan.files, folder)
    return plan


def _read(folder: Path) -> bytes:
    try:
        return (folder / "plan.json").read_bytes()
    except OSError as error:
        raise PlanError(
            f"No plan in '{folder}': cannot read plan.json ({error.strerror}). "
            f"Make one: disaggc compile JOB.toml -o {folder}"
        ) from error


def _check_files(files: dict[str, str], folder: Path) -> None:
    root = folder.resolve()
    for name, digest in files.items():
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
def _validator(name: str) -> jsonschema.Draft202012Validator:
    path = shelf("plans") / f"{name}.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
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
