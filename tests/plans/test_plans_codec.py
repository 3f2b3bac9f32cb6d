"""plan.json: what goes out comes back, in bytes that do not depend on who wrote them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import types
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobs import tiny_plan

from disaggc.errors import PlanError
from disaggc.library import shelf
from disaggc.plans import FORMAT, VERSION, Interval, Plan, dump_plan, open_plan, parse_plan
from disaggc.plans.schema import plan_schema

SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=6),
    int: st.integers(-(10**9), 10**9),
    float: st.integers(-(10**5), 10**5).map(lambda eighths: eighths / 8),  # no more than nine digits
    bool: st.booleans(),
    type(None): st.none(),
}


def _any(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the plan model."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint]
    if origin is tuple:
        return st.lists(_any(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(_any(arguments[0]), _any(arguments[1]), max_size=2)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(_any(argument) for argument in arguments))
    hints = typing.get_type_hints(hint)
    return st.builds(hint, **{f.name: _any(hints[f.name]) for f in dataclasses.fields(hint)})


PLANS = _any(Plan).map(lambda plan: replace(plan, format=FORMAT, version=VERSION))


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(PLANS)
def test_a_plan_comes_back_as_it_was_written(plan: Plan) -> None:
    data = dump_plan(plan)
    assert parse_plan(data, "plan.json") == plan
    assert dump_plan(parse_plan(data, "plan.json")) == data


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan(tmp_path_factory.getbasetemp())


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny plan's folder, to be spoilt."""
    shutil.copytree(tiny, tmp_path / "plan")
    return tmp_path / "plan"


def _with_tpot(plan: Plan, value: float) -> Plan:
    return replace(plan, prediction=replace(plan.prediction, tpot_us=Interval(value, 2.0)))


def test_numbers_have_nine_digits_whatever_computed_them(tiny: Path) -> None:
    plan = open_plan(tiny)
    assert 0.1 + 0.2 != 0.3
    assert dump_plan(_with_tpot(plan, 0.1 + 0.2)) == dump_plan(_with_tpot(plan, 0.3))
    assert dump_plan(_with_tpot(plan, 0.3001)) != dump_plan(_with_tpot(plan, 0.3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_does_not_know_is_never_written(tiny: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_plan(_with_tpot(open_plan(tiny), value))


def test_the_schema_file_is_the_plan_model() -> None:
    text = (shelf("plans") / "plan.schema.json").read_text(encoding="utf-8")
    assert json.loads(text) == plan_schema(), "run python -m disaggc.plans.schema"


def test_the_schema_is_a_schema_and_a_compiled_plan_matches_it(tiny: Path) -> None:
    schema = plan_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads((tiny / "plan.json").read_bytes()))


def test_a_plan_folder_opens_as_the_plan_that_was_written(tiny: Path) -> None:
    assert dump_plan(open_plan(tiny)) == (tiny / "plan.json").read_bytes()


def test_a_plan_names_every_file_of_its_folder_with_its_hash(tiny: Path) -> None:
    unnamed = {"plan.json", "model.path"}
    found = {str(p.relative_to(tiny)) for p in tiny.rglob("*") if p.is_file()} - unnamed
    files = open_plan(tiny).files
    assert found == set(files)
    assert all(hashlib.sha256((tiny / name).read_bytes()).hexdigest() == files[name] for name in files)


Edit = Callable[[dict[str, Any]], object]


def _edited(folder: Path, edit: Edit) -> Path:
    path = folder / "plan.json"
    data = json.loads(path.read_bytes())
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return folder


def _refusal(folder: Path) -> str:
    with pytest.raises(PlanError) as caught:
        open_plan(folder)
    return str(caught.value).replace(str(folder), "PLAN")


AGAIN = "Compile the plan again."
EDITS: dict[str, tuple[Edit, str]] = {
    "other format": (
        lambda plan: plan.update(format="something"),
        "'PLAN/plan.json' is no plan of disaggc: its 'format' is not 'disaggc.plan'.",
    ),
    "later version": (
        lambda plan: plan.update(version=2),
        "'PLAN/plan.json' has version 2; this disaggc reads 1. Compile it again.",
    ),
    "no version": (
        lambda plan: plan.pop("version"),
        "'PLAN/plan.json' has version None; this disaggc reads 1. Compile it again.",
    ),
    "missing part": (
        lambda plan: plan.pop("decode"),
        "'PLAN/plan.json', at $: 'decode' is a required property. Compile the plan again.",
    ),
    "unknown key": (
        lambda plan: plan["schedule"].update(order="free"),
        "'PLAN/plan.json', at $.schedule: Additional properties are not allowed ('order' was unexpected). "
        + AGAIN,
    ),
    "text for a number": (
        lambda plan: plan["pools"][0].update(devices="many"),
        "'PLAN/plan.json', at $.pools[0].devices: 'many' is not of type 'integer'. Compile the plan again.",
    ),
    "file outside the folder": (
        lambda plan: plan["files"].update({"../secret": "0" * 64}),
        "Plan 'PLAN' names '../secret', outside its own folder. Compile it again.",
    ),
    "absolute file": (
        lambda plan: plan["files"].update({"/etc/passwd": "0" * 64}),
        "Plan 'PLAN' names '/etc/passwd', outside its own folder. Compile it again.",
    ),
    "file that is not there": (
        lambda plan: plan["files"].update({"more.csv": "0" * 64}),
        "Plan 'PLAN' lacks 'more.csv' (No such file or directory). Compile it again.",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_plan_that_was_edited_is_refused(folder: Path, name: str) -> None:
    edit, message = EDITS[name]
    assert _refusal(_edited(folder, edit)) == message


def test_a_subgraph_outside_the_folder_is_refused_through_a_link(folder: Path, tmp_path: Path) -> None:
    elsewhere = (tmp_path / "elsewhere.csv").resolve()
    (folder / "ops.csv").rename(elsewhere)
    (folder / "ops.csv").symlink_to(elsewhere)
    assert _refusal(folder) == "Plan 'PLAN' names 'ops.csv', outside its own folder. Compile it again."


def test_a_changed_file_is_refused_unless_it_is_trusted(folder: Path) -> None:
    with (folder / "ops.csv").open("a", encoding="utf-8") as file:
        file.write("more\n")
    assert _refusal(folder) == "'ops.csv' in plan 'PLAN' was changed after it was compiled. Compile it again."
    assert open_plan(folder, trust=True).mode.startswith("AFD")


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "ops.csv").unlink()
    assert _refusal(folder) == "Plan 'PLAN' lacks 'ops.csv' (No such file or directory). Compile it again."


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    message = "No plan in 'PLAN': cannot read plan.json (No such file or directory). "
    message += "Make one: disaggc compile JOB.toml -o PLAN"
    assert _refusal(tmp_path) == message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format": '])
def test_a_plan_that_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / "plan.json").write_bytes(content)
    told = _refusal(folder)
    assert told.startswith("'PLAN/plan.json' is not JSON: ")
    assert told.endswith(" Compile the plan again.")


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"{}"])
def test_json_that_is_no_plan_is_refused(folder: Path, content: bytes) -> None:
    (folder / "plan.json").write_bytes(content)
    assert _refusal(folder) == "'PLAN/plan.json' is no plan of disaggc: its 'format' is not 'disaggc.plan'."
