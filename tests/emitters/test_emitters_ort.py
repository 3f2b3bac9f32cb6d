"""Model packages and genai pipelines, opened and run by onnxruntime and onnxruntime-genai themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from runtime.splitting import contiguous, read, split

from disaggc import runtime
from disaggc.backends.emitters import Settings, emit
from disaggc.backends.emitters.ort_genai import caches_of
from disaggc.errors import PlanError
from disaggc.frontends import sha256
from disaggc.plans import Plan, StateRef, dump_plan, open_plan
from disaggc.runtime.engine import InferenceSession

from .conftest import MODELS, MOE
from .shapes import rewritten

Plans = Callable[[str], Path]
PROMPT = (1, 5, 9, 7, 33)


# Model packages ---------------------------------------------------------------------------------


def packaged(folder: Path, output: Path, **settings: Any) -> Path:
    emit(folder, "ort-package", output, Settings(**settings))
    return output


def own_info(package: Path) -> dict[str, dict[str, Any]]:
    """Component to what its CPU variant says in our namespace, as onnxruntime reads it."""
    info = ort.ModelPackage.open(str(package)).get_info()  # type: ignore[attr-defined]
    return {
        component["name"]: json.loads(variant["executor_info"]["disaggc"])
        for component in info["components"]
        for variant in component["variants"]
        if variant["name"] == "cpu"
    }


def run_package(package: Path, phase: str, values: dict[str, Any]) -> dict[str, Any]:
    """All stages of a phase in order, each opened by onnxruntime from the package."""
    context = ort.ModelPackageContext(str(package))  # type: ignore[attr-defined]
    chosen = ort.ModelPackageOptions(ort.SessionOptions())  # type: ignore[attr-defined]
    stages = {name: info for name, info in own_info(package).items() if phase in info["phases"]}
    for name in sorted(stages, key=lambda name: stages[name]["stage"]):
        session = context.select_component(name, chosen).create_session()
        outputs = [port.name for port in session.get_outputs()]
        feeds = {port.name: values[port.name] for port in session.get_inputs()}
        values |= dict(zip(outputs, session.run(outputs, feeds), strict=True))
    return values


def moe_feeds(batch: int, new: int) -> dict[str, Any]:
    feeds: dict[str, Any] = {
        "input_ids": np.arange(batch * new, dtype=np.int64).reshape(batch, new),
        "position_ids": np.tile(np.arange(new, dtype=np.int64), (batch, 1)),
        "attention_mask": np.ones((batch, new), np.int64),
        "seqlens_k": np.full(batch, new - 1, np.int32),
        "total_sequence_length": np.array(new, np.int32),
    }
    feeds |= {f"past.{i}.{kind}": np.zeros((batch, 2, 0, 32), np.float32) for i in range(4) for kind in KINDS}
    return feeds


KINDS = ("key", "value")


@pytest.mark.parametrize("name", ["tiny", "moe"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_onnxruntime_runs_a_package_as_it_runs_the_model(
    plans: Plans, tmp_path: Path, name: str, phase: str
) -> None:
    whole = InferenceSession(str(MODELS / MOE), providers=["CPUExecutionProvider"])
    feeds = {port.name: moe_feeds(2, 5)[port.name] for port in whole.get_inputs()}
    outputs = [port.name for port in whole.get_outputs()]
    wanted = dict(zip(outputs, whole.run(outputs, feeds), strict=True))
    found = run_package(packaged(plans(name), tmp_path / "out"), phase, moe_feeds(2, 5))
    for output, array in wanted.items():
        np.testing.assert_array_equal(found[output], array, err_msg=output)


def test_a_package_says_which_device_and_stage_each_component_is(plans: Plans, tmp_path: Path) -> None:
    plan, info = open_plan(plans("tiny")), own_info(packaged(plans("tiny"), tmp_path / "out"))
    for stage in plan.decode.stages:
        own = info[Path(stage.subgraph).stem]
        assert (own["device"], own["stage"], own["phases"]) == (stage.pool, stage.index, ["decode"])
        assert tuple(own["roles"]) == stage.roles


def test_equal_cuts_are_one_component_for_both_phases(plans: Plans, tmp_path: Path) -> None:
    info = own_info(packaged(plans("wide"), tmp_path / "out"))
    assert [own["phases"] for own in info.values()] == [["prefill", "decode"]]


def test_stages_on_nvidia_gpus_can_run_on_cuda_too(plans: Plans, tmp_path: Path) -> None:
    context = ort.ModelPackageContext(str(packaged(plans("tiny"), tmp_path / "out")))  # type: ignore[attr-defined]
    variants = {tuple(context.get_variant_names(name)) for name in context.get_component_names()}
    assert variants == {("cpu",), ("cpu", "cuda")}


def test_weights_are_there_once(plans: Plans, tmp_path: Path) -> None:
    output = packaged(plans("tiny"), tmp_path / "out")
    assert [p.name for p in (output / "models").iterdir() if p.name == MOE] == [MOE]
    subgraphs = sum(p.stat().st_size for p in (output / "models").glob("*_*.onnx") if p.name != MOE)
    assert subgraphs < (MODELS / MOE).stat().st_size / 4


# genai ------------------------------------------------------------------------------------------


def cut(model_path: Path, folder: Path, parts: int, seed: int, prefill_pool: str | None = None) -> Path:
    """A plan folder of a model cut at random places, attention and its caches wherever they fall."""
    model = read(model_path)
    plan = split(model_path, folder, contiguous(model, parts, seed), model=model, prefill_pool=prefill_pool)
    schedule = replace(plan.schedule, context_tokens=256)
    plan = replace(plan, model=replace(plan.model, sha256=sha256(model_path)), schedule=schedule)
    (folder / "plan.json").write_bytes(dump_plan(plan))
    (folder / "model.path").write_text(f"{model_path.parent}\n", encoding="utf-8")
    return folder


def generated(folder: Path, new: int, prompt: Sequence[int] = PROMPT) -> list[int]:
    """What onnxruntime-genai generates."""
    genai = pytest.importorskip("onnxruntime_genai")
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    length = len(prompt) + new
    parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt) :]


def ours(plan: Plan, folder: Path, model_folder: Path, new: int, prompt: Sequence[int] = PROMPT) -> list[int]:
    result = runtime.run(plan, folder, model_folder, [list(prompt)], new)
    return [int(token) for token in result.tokens[0]]


@pytest.mark.parametrize(("parts", "seed"), [(2, 0), (5, 1), (9, 2)])
@pytest.mark.parametrize("prefill_pool", [None, "prefill"])
def test_genai_generates_our_tokens_from_any_cut(
    runnable: Callable[[str], Path], tmp_path: Path, parts: int, seed: int, prefill_pool: str | None
) -> None:
    model = runnable("genai.llama.int4")
    folder = cut(model, tmp_path / "plan", parts, seed, prefill_pool)
    emit(folder, "ort-genai", tmp_path / "out")
    assert generated(tmp_path / "out", 12) == ours(open_plan(folder), folder, model.parent, 12)


def test_genai_generates_from_a_prompt_of_one_token(runnable: Callable[[str], Path], tmp_path: Path) -> None:
    model = runnable("genai.llama.int4")
    folder = cut(model, tmp_path / "plan", 4, 3, "prefill")
    emit(folder, "ort-genai", tmp_path / "out")
    assert generated(tmp_path / "out", 6, [7]) == ours(open_plan(folder), folder, model.parent, 6, [7])


def test_genai_generates_our_tokens_with_phases_apart(plans: Plans, tmp_path: Path) -> None:
    emit(plans("phases"), "ort-genai", tmp_path / "out")
    wanted = ours(open_plan(plans("phases")), plans("phases"), MODELS / "llama.int4", 12)
    assert generated(tmp_path / "out", 12) == wanted
    pipeline = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]["decoder"][
        "pipeline"
    ]
    phases = {name: (s["run_on_prompt"], s["run_on_token_gen"]) for name, s in pipeline[0].items()}
    assert phases == {"prefill_000": (True, False), "decode_000": (False, True)}


@pytest.mark.parametrize(
    "name", ["llama.dynamo.op23", "llama.dynamo.op18", "genai.qwen3.fp32", "mobius.llama"]
)
def test_genai_generates_our_tokens_of_other_exporters(
    runnable: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    model = runnable(name)
    folder = cut(model, tmp_path / "plan", 4, 1)
    emit(folder, "ort-genai", tmp_path / "out")
    assert generated(tmp_path / "out", 8) == ours(open_plan(folder), folder, model.parent, 8)


def test_windows_are_kept_as_the_models_own_configuration_says(
    runnable: Callable[[str], Path], tmp_path: Path
) -> None:
    model = runnable("genai.gpt_oss.fp32")
    folder = cut(model, tmp_path / "plan", 3, 0)
    emit(folder, "ort-genai", tmp_path / "out")
    assert generated(tmp_path / "out", 80) == generated(model.parent, 80)


def test_the_models_own_configuration_is_kept(plans: Plans, tmp_path: Path) -> None:
    emit(plans("phases"), "ort-genai", tmp_path / "out")
    own = json.loads((MODELS / "llama.int4" / "genai_config.json").read_text())
    config = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    for key in ("bos_token_id", "eos_token_id", "context_length", "vocab_size"):
        assert config["model"][key] == own["model"][key]
    assert "filename" not in config["model"]["decoder"]


def test_special_tokens_come_from_the_checkpoints_configuration(
    runnable: Callable[[str], Path], tmp_path: Path
) -> None:
    model = runnable("genai.llama.int4")
    moved = tmp_path / "model"
    moved.mkdir()
    for name in (model.name, f"{model.name}.data"):
        (moved / name).write_bytes((model.parent / name).read_bytes())
    (moved / "config.json").write_text('{"eos_token_id": 2, "model_type": "llama"}')
    (moved / "tokenizer.json").write_text("{}")
    folder = cut(moved / model.name, tmp_path / "plan", 2, 0)
    plan = open_plan(folder)
    plan = replace(plan, schedule=replace(plan.schedule, context_tokens=64))
    (folder / "plan.json").write_bytes(dump_plan(plan))
    written = emit(folder, "ort-genai", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]
    assert (config["eos_token_id"], config["vocab_size"], config["context_length"]) == (2, 512, 64)
    assert "tokenizer.json" in written.files
    assert generated(tmp_path / "out", 8) == ours(plan, folder, moved, 8)


def test_genai_has_no_words_for_lengths_of_sequences(plans: Plans, tmp_path: Path) -> None:
    message = r"has input 'seqlens_k' \(past_lengths\); genai feeds token ids, positions and a mask"
    with pytest.raises(PlanError, match=message):
        emit(plans("wide"), "ort-genai", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _states(*rows: tuple[str, tuple[int | str, ...]]) -> tuple[StateRef, ...]:
    return tuple(StateRef(name, f"new.{name}", "float32", shape, 2, False) for name, shape in rows)


FULL = ("batch", 2, "cached", 32)

ODD: dict[str, tuple[tuple[StateRef, ...], str]] = {
    "no caches": ((), "has no caches"),
    "keys alone": (_states(("k.0", FULL), ("k.1", FULL)), "not one of keys and one of values"),
    "a gap": (_states(("k.0", FULL), ("v.0", FULL), ("k.2", FULL), ("v.2", FULL)), "not one of keys and one"),
    "no layer": (_states(("key", FULL), ("value", FULL)), "not one of keys and one of values"),
    "latents": (
        _states(("k.0", ("batch", 1, "cached", 512)), ("v.0", ("batch", 1, "cached", 64))),
        "caches 'k.0' and 'v.0' of unlike shapes",
    ),
    "a window": (
        _states(("k.0", ("batch", 2, 128, 32)), ("v.0", ("batch", 2, 128, 32))),
        "for a window of tokens, and no genai_config.json says which layers do",
    ),
    "three extents": (
        _states(("k.0", ("batch", 2, 32)), ("v.0", ("batch", 2, 32))),
        r"not as \[batch, heads, tokens, width\]",
    ),
    "open extents": (
        _states(("k.0", ("batch", 2, "cached", "d")), ("v.0", ("batch", 2, "cached", "d"))),
        "open extents",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_caches_that_genai_cannot_make_are_refused_with_the_reason(plans: Plans, name: str) -> None:
    states, message = ODD[name]
    plan = replace(open_plan(plans("colocated")), states=states)
    with pytest.raises(
        PlanError, match=f"ort-genai' cannot express this plan: the model.*{message}.*ort-package"
    ):
        caches_of(plan)


def test_layers_may_differ_in_heads_and_width(plans: Plans) -> None:
    wide = ("batch", 1, "cached", 64)
    states = _states(("k.0", FULL), ("v.0", FULL), ("k.1", wide), ("v.1", wide))
    found = caches_of(replace(open_plan(plans("colocated")), states=states))
    assert (found.past, found.layers, found.heads, found.head_size) == (("k.%d", "v.%d"), 2, 2, 32)


def test_a_stage_without_subgraph_is_refused(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("phases"))
    bare = replace(plan.decode, stages=tuple(replace(stage, subgraph="") for stage in plan.decode.stages))
    folder = rewritten(plans("phases"), tmp_path / "plan", decode=bare)
    with pytest.raises(PlanError, match="Stage 0 of decode has no subgraph"):
        emit(folder, "ort-package", tmp_path / "out")


def test_subgraphs_are_those_of_the_plan(plans: Plans, tmp_path: Path) -> None:
    emit(plans("phases"), "ort-genai", tmp_path / "out")
    for path in (plans("phases") / "subgraphs").glob("*.onnx"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
