import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs import EXAMPLES

from disaggc.errors import JobError
from disaggc.plans import SearchSpec, load_job, parse_job

MINIMAL: dict[str, Any] = {
    "model": {"onnx": "m.onnx"},
    "fleet": {"vr-nvl72": 1},
    "tier": [{"like": "gtc2026/premium"}],
}

Edit = Callable[[dict[str, Any]], object]


def _refusal(edit: Edit) -> str:
    data = copy.deepcopy(MINIMAL)
    edit(data)
    with pytest.raises(JobError) as caught:
        parse_job(data, "job.toml")
    return str(caught.value)


def test_a_job_needs_a_model_a_fleet_and_a_tier_and_nothing_else() -> None:
    job = parse_job(MINIMAL, "job.toml")
    assert (job.model.weights, job.model.kv, job.model.activations) == ("as stored",) * 3
    assert (job.objective.maximise, job.search) == ("", SearchSpec())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: str(path.name))
def test_the_shipped_examples_are_jobs(path: Path) -> None:
    assert load_job(path).fleet


REFUSED: dict[str, tuple[Edit, str]] = {
    "unknown table": (
        lambda job: job.update(searches={}),
        "job.toml: Unknown key 'searches'. Did you mean 'search'?",
    ),
    "unknown key of the model": (
        lambda job: job["model"].update(weight="fp8"),
        "job.toml, at model: Unknown key 'weight'. Did you mean 'weights'?",
    ),
    "unknown key of a tier": (
        lambda job: job["tier"][0].update(ttft=5),
        "job.toml, at tier.0: Unknown key 'ttft'. Did you mean 'ttft_ms'?",
    ),
    "key unlike any": (
        lambda job: job["model"].update(zzz=1),
        "job.toml, at model: Unknown key 'zzz'. Known names: activations, draft, kv, onnx, weights.",
    ),
    "no model": (lambda job: job.pop("model"), "job.toml: Key 'model' is missing."),
    "no onnx": (lambda job: job["model"].clear(), "job.toml, at model: Key 'onnx' is missing."),
    "text for a count": (
        lambda job: job["fleet"].update({"vr-nvl72": "two"}),
        "job.toml, at fleet.vr-nvl72: Expected a whole number, got 'two'.",
    ),
    "half a system": (
        lambda job: job["fleet"].update({"vr-nvl72": 0.5}),
        "job.toml, at fleet.vr-nvl72: Expected a whole number, got 0.5.",
    ),
    "number for a path": (
        lambda job: job["model"].update(onnx=3),
        "job.toml, at model.onnx: Expected a text, got 3.",
    ),
    "text for a number": (
        lambda job: job["tier"][0].update(ttft_ms="fast"),
        "job.toml, at tier.0.ttft_ms: Expected a number, got 'fast'.",
    ),
    "empty fleet": (
        lambda job: job["fleet"].clear(),
        "job.toml: [fleet] is empty. Name at least one system, such as vr-nvl72 = 1.",
    ),
    "none of a system": (
        lambda job: job["fleet"].update({"vr-nvl72": 0}),
        "job.toml: [fleet] vr-nvl72 = 0 must be 1 or more. Leave the line out for none.",
    ),
    "no tier": (
        lambda job: job["tier"].clear(),
        "job.toml: No tier is given. Write a [[tier]], such as like = 'gtc2026/premium'.",
    ),
    "two tiers of one name": (
        lambda job: job["tier"].append(dict(job["tier"][0])),
        "job.toml: Two tiers are called 'gtc2026/premium'. Give each [[tier]] a name of its own.",
    ),
    "demand twice": (
        lambda job: job["tier"][0].update(requests_per_s=1.0, concurrency=9.0),
        (
            "job.toml: a tier gives its demand once. "
            "Keep one of requests_per_s, demand_tokens_per_s, concurrency."
        ),
    ),
    "no demand at all": (
        lambda job: job["tier"][0].update(requests_per_s=0.0),
        "job.toml: requests_per_s = 0.0 must be more than 0.",
    ),
    "more than all of the demand": (
        lambda job: job["tier"][0].update(requests_per_s=1.0, least_share=1.5),
        "job.toml: least_share = 1.5 must be from 0 to 1.",
    ),
    "no power": (
        lambda job: job.update(budget={"power_kw": 0.0}),
        "job.toml: [budget] power_kw = 0 must be more than 0. Leave it out for none.",
    ),
    "a grid for a shared fleet": (
        lambda job: (job["tier"][0].update(requests_per_s=1.0), job.update(search={"batch": [8]})),
        (
            "job.toml: [search] narrows the grid of a single tier without demand; tiers that share a fleet "
            "are searched whole. Leave it out."
        ),
    ),
    "one objective twice": (
        lambda job: job.update(objective={"maximise": "revenue", "then": "revenue"}),
        "job.toml: [objective] then = 'revenue' is the first objective already.",
    ),
    "unknown objective": (
        lambda job: job.update(objective={"maximise": "fame"}),
        (
            "job.toml: [objective] maximise = 'fame' is unknown. Use 'throughput', 'revenue', 'profit' or "
            "'tokens_per_mw'."
        ),
    ),
    "prefix hit of everything": (
        lambda job: job["tier"][0].update(prefix_hit=1.0),
        "job.toml: prefix_hit = 1.0 must be from 0 to less than 1.",
    ),
    "negative prefix hit": (
        lambda job: job["tier"][0].update(prefix_hit=-0.1),
        "job.toml: prefix_hit = -0.1 must be from 0 to less than 1.",
    ),
    "no output": (
        lambda job: job["tier"][0].update(output_tokens=0),
        "job.toml: output_tokens = 0 must be more than 0.",
    ),
    "no speed": (
        lambda job: job["tier"][0].update(tokens_per_s_per_user=-1),
        "job.toml: tokens_per_s_per_user = -1.0 must be more than 0.",
    ),
    "batch of none": (
        lambda job: job.update(search={"batch": [8, 0]}),
        "job.toml: [search] batch must hold numbers of 1 or more.",
    ),
    "no micro-batches": (
        lambda job: job.update(search={"micro_batches": [0]}),
        "job.toml: [search] micro_batches must hold numbers of 1 or more.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_job_that_does_not_check_is_refused_with_its_place_and_cure(name: str) -> None:
    edit, message = REFUSED[name]
    assert _refusal(edit) == message


def test_a_job_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"Cannot read job '.*none\.toml': No such file or directory\."):
        load_job(tmp_path / "none.toml")


def test_a_job_file_that_is_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"Cannot read job '.*': Is a directory\."):
        load_job(tmp_path)


@pytest.mark.parametrize("content", [b"[model\n", b"\xff\xfe\x00"])
def test_a_job_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    with pytest.raises(JobError, match=r"Job '.*job\.toml' is not TOML: "):
        load_job(path)


def test_the_example_parses_to_what_its_toml_says() -> None:
    path = EXAMPLES / "tiny_moe.toml"
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    job = load_job(path)
    assert job.fleet == data["fleet"]
    assert job.tier[0].prefix_hit == data["tier"][0]["prefix_hit"]
