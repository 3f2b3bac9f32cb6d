from collections.abc import Callable
from pathlib import Path

import pytest
from rewriting import renamed
from skeletons import HUGE, SKELETONS, SMALL

from disaggc.frontends import open_model, read_graph
from disaggc.ir import BATCH, CACHED, NEW, Expr, Graph, State, parse_dim
from disaggc.passes import load_pipeline, run

Analysed = Callable[[str], Graph]
Skeleton = Callable[[str], Path]

KV = {(2, 32)}  # heads, width: the small models' caches
EXTENTS = dict.fromkeys(SMALL, KV) | {
    "deepseek_v3.batched_mm.dynamo.op23": {(1, 32), (1, 16)},  # latent, and rotated part of the keys
    "mobius.llama.static": {(1, 64)},  # [batch, slot, heads * width]
    "full.llama3_70b.torch": {(8, 128)},
    "full.mixtral_8x22b.torch": {(8, 128)},
    "full.qwen3_235b.mobius": {(4, 128)},
    "full.qwen3_235b.moe_op": {(4, 128)},
}
IN_PLACE = {
    name for name in SKELETONS if any(word in name for word in ("gqa", "static", "genai", "torch", "moe_op"))
}
FEEDS = {
    "llama.dynamo.op23": {"input_ids": "token_ids", "position_ids": "position_ids"},
    "mobius.llama": {
        "input_ids": "token_ids",
        "attention_mask": "attention_mask",
        "position_ids": "position_ids",
    },
    "mobius.llama.static": {
        "input_ids": "token_ids",
        "position_ids": "position_ids",
        "write_indices": "write_indices",
        "nonpad_kv_seqlen": "kv_lengths",
    },
    "llama.gqa_moe": {
        "input_ids": "token_ids",
        "position_ids": "position_ids",
        "seqlens_k": "past_lengths",
        "total_sequence_length": "total_length",
    },
    "genai.llama.int4": {"input_ids": "token_ids", "attention_mask": "attention_mask"},
    "full.qwen3_235b.moe_op": {
        "input_ids": "token_ids",
        "seqlens_k": "past_lengths",
        "total_sequence_length": "total_length",
    },
}
ALIKE = {
    "deepseek_v3.batched_mm.dynamo.op23": "llama.dynamo.op23",
    "gemma3.dynamo.op18": "llama.dynamo.op23",
    "llama.dynamo.op18": "llama.dynamo.op23",
    "qwen3_moe.batched_mm.dynamo.op23": "llama.dynamo.op23",
    "mobius.qwen3_moe": "mobius.llama",
    "full.qwen3_235b.mobius": "mobius.llama",
    "qwen3_moe.gqa_moe": "llama.gqa_moe",
    "full.llama3_70b.torch": "llama.gqa_moe",
    "full.mixtral_8x22b.torch": "llama.gqa_moe",
    "genai.gpt_oss.fp32": "genai.llama.int4",
    "genai.qwen3.fp32": "genai.llama.int4",
}


def _facts(state: State) -> tuple[object, ...]:
    return (state.axis, state.in_place, state.heads, state.width, state.dtype, state.window)


@pytest.mark.parametrize("name", SKELETONS)
def test_every_layer_has_two_states_of_the_right_extent(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    assert len(graph.states) == 2 * len(graph.layers)
    assert {(s.heads, s.width) for s in graph.states} == EXTENTS[name]


@pytest.mark.parametrize("name", SKELETONS)
def test_states_pair_each_past_with_the_present_of_the_same_name(name: str, analysed: Analysed) -> None:
    for state in analysed(name).states:
        key = state.past.replace("past_key_values", "").replace("past", "")
        assert state.present.replace("present", "").replace("updated_", "") == key


@pytest.mark.parametrize("name", SKELETONS)
def test_the_token_axis_and_in_place_update_are_known(name: str, analysed: Analysed) -> None:
    states = analysed(name).states
    assert {state.axis for state in states} == {1 if name == "mobius.llama.static" else 2}
    assert {state.in_place for state in states} == {name in IN_PLACE}


def test_windows_alternate_in_gpt_oss(analysed: Analysed) -> None:
    windows = [state.window for state in analysed("genai.gpt_oss.fp32").states]
    assert windows == [64, 64, None, None, 64, 64, None, None]


@pytest.mark.parametrize(
    "name", [n for n in SKELETONS if n not in ("genai.gpt_oss.fp32", "gemma3.dynamo.op18")]
)
def test_other_models_declare_no_window(name: str, analysed: Analysed) -> None:
    assert {state.window for state in analysed(name).states} == {None}


@pytest.mark.parametrize("name", SKELETONS)
def test_every_input_is_a_state_or_has_a_feed(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    assert graph.workload is not None
    assert dict(graph.workload.feeds) == FEEDS[ALIKE.get(name, name)]
    assert {s.past for s in graph.states} | set(graph.workload.feeds) == set(graph.inputs)


@pytest.mark.parametrize("name", SKELETONS)
def test_the_token_input_is_over_batch_and_new_tokens(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    assert graph.workload is not None
    assert graph.values[graph.workload.tokens].shape == (BATCH, NEW)
    assert graph.workload.logits == "logits"


@pytest.mark.parametrize(
    "name", [n for n in SKELETONS if "gqa" in n or "dynamo" in n or n.startswith("mobius.")]
)
def test_caches_grow_from_cached_to_cached_and_new(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    for state in graph.states:
        past, present = graph.values[state.past].shape, graph.values[state.present].shape
        assert past is not None
        assert present is not None
        assert state.axis is not None
        if past != present:
            assert past[state.axis] == CACHED
            assert parse_dim(str(present[state.axis])) == Expr.of(CACHED) + Expr.of(NEW)


@pytest.mark.parametrize("name", [n for n in SKELETONS if n != HUGE])
def test_random_names_change_no_state_and_no_feed(name: str, skeleton: Skeleton, analysed: Analysed) -> None:
    path = skeleton(name)
    known = analysed(name)
    other = run(read_graph(path, renamed(open_model(path), seed=2)), load_pipeline())
    assert [_facts(s) for s in other.states] == [_facts(s) for s in known.states]
    position = [(known.inputs.index(s.past), known.outputs.index(s.present)) for s in known.states]
    assert [(other.inputs.index(s.past), other.outputs.index(s.present)) for s in other.states] == position
    assert known.workload is not None
    assert other.workload is not None
    assert list(other.workload.feeds.values()) == list(known.workload.feeds.values())
    assert [other.values[n].shape for n in other.outputs] == [known.values[n].shape for n in known.outputs]


def test_an_exporter_may_use_our_words_for_other_things(skeleton: Skeleton, analysed: Analysed) -> None:
    name = "llama.dynamo.op23"
    model = open_model(skeleton(name))
    spelled = {str(d) for d in _dims(read_graph(skeleton(name), model))}
    assert spelled >= {"batch", "seq", "past"}
    swapped = {"batch": "cached", "seq": "batch", "past": "new"}
    for info in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        for dim in info.type.tensor_type.shape.dim:
            words = dim.dim_param.replace("batch", "B").replace("seq", "S").replace("past", "P")
            for word, letter in (("batch", "B"), ("seq", "S"), ("past", "P")):
                words = words.replace(letter, swapped[word].upper())
            if dim.dim_param:
                dim.dim_param = words.lower()
    other = run(read_graph(skeleton(name), model), load_pipeline())
    assert [other.values[n].shape for n in other.outputs] == [
        analysed(name).values[n].shape for n in other.outputs
    ]
    assert [c.flops for c in other.costs] == [c.flops for c in analysed(name).costs]


def _dims(graph: Graph) -> set[object]:
    return {dim for value in graph.values.values() for dim in value.shape or ()}
