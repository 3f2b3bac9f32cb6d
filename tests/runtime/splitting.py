"""Hand-built plans for real models: what the compiler finds out, read off names for these tests."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from disaggc.backends.onnxruntime import Part, boundary, write_subgraphs
from disaggc.plans import (
    FORMAT,
    VERSION,
    Certificate,
    Feed,
    Formats,
    Goal,
    Interval,
    ModelRef,
    PhasePlan,
    Plan,
    Prediction,
    Schedule,
    Stage,
    StateRef,
)

MODELS = (
    "deepseek_v3.batched_mm.dynamo.op23.onnx",
    "gemma3.dynamo.op18.onnx",
    "llama.dynamo.op18.onnx",
    "llama.dynamo.op23.onnx",
    "llama.gqa_moe.onnx",
    "qwen3_moe.batched_mm.dynamo.op23.onnx",
    "qwen3_moe.gqa_moe.onnx",
    "mobius/llama/model.onnx",
    "mobius/llama.static/model.onnx",
    "mobius/qwen3_moe/model.onnx",
    "genai/gpt_oss.fp32/model.onnx",
    "genai/llama.int4/model.onnx",
    "genai/qwen3.fp32/model.onnx",
)

_KINDS = {
    "input_ids": ("token_ids", ("batch", "new")),
    "position_ids": ("position_ids", ("batch", "new")),
    "attention_mask": ("attention_mask", ("batch", "total")),
    "seqlens_k": ("past_lengths", ("batch",)),
    "total_sequence_length": ("total_length", ()),
    "write_indices": ("write_indices", ("batch",)),
    "nonpad_kv_seqlen": ("kv_lengths", ("batch",)),
}
_STATES = ((r"past(_key_values)?\.(.*)", r"present.\2"), (r"(\w+_cache\.\d+)", r"updated_\1"))
_DTYPES: dict[int, str] = {6: "int32", 7: "int64"}


def read(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


def contiguous(model: onnx.ModelProto, parts: int, seed: int) -> list[tuple[int, ...]]:
    """The model's nodes in ``parts`` runs, cut at random positions."""
    count = len(model.graph.node)
    cuts = [0, *sorted(random.Random(seed).sample(range(1, count), parts - 1)), count]
    return [tuple(range(a, b)) for a, b in itertools.pairwise(cuts)]


def one_stage_plan(path: Path, model: onnx.ModelProto) -> Plan:
    """A plan that knows the model's inputs, states and logits, and has no stages yet."""
    state_names = [_past_and_present(v.name, model) for v in model.graph.input]
    states = tuple(_state(model, *names) for names in state_names if names is not None)
    pasts = {state.past for state in states}
    constants = {tensor.name for tensor in model.graph.initializer}
    feeds = tuple(_feed(v) for v in model.graph.input if v.name not in pasts and v.name not in constants)
    nothing = Interval(0.0, 0.0)
    return Plan(
        format=FORMAT,
        version=VERSION,
        compiler="tests",
        model=ModelRef(path.stem, path.name, "", len(model.graph.node), 4, 0),
        goal=Goal("", 0.0, 0.0),
        formats=Formats(),
        mode="",
        pools=(),
        schedule=Schedule(8, 2, 0, 0, 0),
        states=states,
        feeds=feeds,
        logits="logits",
        decode=PhasePlan(()),
        prefill=PhasePlan(()),
        prediction=Prediction(nothing, nothing, nothing, nothing, "", 0.0),
        alternatives=(),
        rejections=(),
        certificate=Certificate("", 0.0, 0.0, 0.0, "", 0, 0, False, ""),
        weakest="",
    )


def split(
    path: Path,
    folder: Path,
    nodes: Sequence[Sequence[int]],
    pools: Sequence[str] = ("attention", "experts"),
    prefill_pool: str | None = None,
    model: onnx.ModelProto | None = None,
) -> Plan:
    """Cut a model, write the parts, and return the plan that runs them on alternating pools.

    With ``prefill_pool`` the whole model is one more part, which that pool runs as prefill.
    """
    model = read(path) if model is None else model
    plan = one_stage_plan(path, model)
    decode = _parts(model, nodes, "decode")
    prefill = _parts(model, [range(len(model.graph.node))], "prefill") if prefill_pool else []
    write_subgraphs(model, path, [*decode, *prefill], folder)
    staged = PhasePlan(tuple(_stage(i, part, pools[i % len(pools)], plan) for i, part in enumerate(decode)))
    if prefill_pool is None:
        return replace(plan, decode=staged, prefill=staged)
    whole = PhasePlan(tuple(_stage(i, part, prefill_pool, plan) for i, part in enumerate(prefill)))
    return replace(plan, decode=staged, prefill=whole)


def _parts(model: onnx.ModelProto, nodes: Sequence[Sequence[int]], phase: str) -> list[Part]:
    borders = boundary(model, nodes)
    return [
        Part(f"subgraphs/{phase}_{i:03}.onnx", tuple(own), border.inputs, border.outputs)
        for i, (own, border) in enumerate(zip(nodes, borders, strict=True))
    ]


def _stage(index: int, part: Part, pool: str, plan: Plan) -> Stage:
    state_names = {name for state in plan.states for name in (state.past, state.present)}
    return Stage(
        index=index,
        pool=pool,
        layers=(),
        roles=(),
        subgraph=part.path,
        inputs=tuple(name for name in part.inputs if name not in state_names),
        outputs=tuple(name for name in part.outputs if name not in state_names),
        states=tuple(
            i for i, s in enumerate(plan.states) if {s.past, s.present} & {*part.inputs, *part.outputs}
        ),
    )


def _past_and_present(name: str, model: onnx.ModelProto) -> tuple[str, str] | None:
    outputs = {value.name for value in model.graph.output}
    for pattern, present in (
        (r"past(_key_values)?\.(.*)", r"present.\2"),
        (r"(\w+_cache\.\d+)", r"updated_\1"),
    ):
        other = re.sub(pattern, present, name)
        if re.fullmatch(pattern, name) and other in outputs:
            return name, other
    return None


def _state(model: onnx.ModelProto, past: str, present: str) -> StateRef:
    value = next(v for v in model.graph.input if v.name == past)
    declared = [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
    if "cache." in past:
        return StateRef(past, present, "float32", ("batch", *declared[1:]), 1, True, int(declared[1]))
    reader = next(n for n in model.graph.node if past in n.input and n.op_type != "Shape")
    in_place = reader.op_type == "GroupQueryAttention"
    width = 32 if declared[3] == "kv_cache_dim" else declared[3]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in reader.attribute}
    tokens = "capacity" if in_place else "cached"
    if attributes.get("sliding_window_cache"):
        tokens = attributes["local_window_size"]
    return StateRef(past, present, "float32", ("batch", declared[1], tokens, width), 2, in_place)


def _feed(value: onnx.ValueInfoProto) -> Feed:
    kind, shape = _KINDS[value.name]
    tensor = value.type.tensor_type
    return Feed(value.name, kind, _DTYPES[tensor.elem_type], shape)
