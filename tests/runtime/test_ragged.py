"""Requests of unequal length in one micro-batch, where the model's graph heeds a length for each row."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from disaggc.plans import Feed
from disaggc.runtime import Execution, Request, deploy, deploy_reference
from disaggc.runtime.feeds import Lengths, feed_array
from disaggc.runtime.ragged import may_be_ragged

from .fleets import cut, on_processes
from .splitting import MODELS, one_stage_plan, read
from .test_processes import TINY

RAGGED = {
    "llama.gqa_moe.onnx",
    "qwen3_moe.gqa_moe.onnx",
    "mobius/llama.static/model.onnx",
    "genai/llama.int4/model.onnx",
    "genai/qwen3.fp32/model.onnx",
}
REQUESTS = [
    Request((5, 7, 11, 13, 2), 21),
    Request((1, 2, 3), 40),
    Request((9, 8, 7, 6, 5, 4, 3), 9),
    Request((4,), 33, 0.01),
]


@pytest.mark.parametrize("name", MODELS)
def test_unequal_requests_share_where_the_graph_heeds_lengths_and_nowhere_else(
    shared_models: Path, tmp_path: Path, name: str
) -> None:
    path = shared_models / name
    plan = cut(path, tmp_path)
    with deploy_reference(plan, path.parent) as reference:
        expected = reference.serve(REQUESTS, keep_logits=True)
    with deploy(plan, tmp_path, path.parent, execution=Execution(micro_batch=8)) as deployment:
        found = deployment.serve(REQUESTS, keep_logits=True)
        assert deployment.is_ragged == (name in RAGGED)
    assert found.tokens == expected.tokens
    # Products of int4 weights round activations to int8: a last bit that differs becomes a step of 1/127.
    tolerance = 1e-2 if "int4" in name else 1e-5
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def test_requests_join_and_leave_in_processes(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path, "prefill")
    with deploy_reference(plan, TINY.parent) as reference:
        expected = reference.serve(REQUESTS)
    with deploy(plan, tmp_path, TINY.parent, execution=on_processes()) as deployment:
        found = deployment.serve(REQUESTS)
        assert deployment.is_ragged
    assert found.tokens == expected.tokens
    assert [len(tokens) for tokens in found.tokens] == [r.max_new_tokens for r in REQUESTS]
    for request, times in zip(REQUESTS, found.requests, strict=True):
        assert request.arrival_s <= times.first_s <= times.last_s


def test_a_budget_smaller_than_what_is_tried_out_is_no_obstacle(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    with deploy(plan, tmp_path, TINY.parent, execution=Execution(kv_tokens=6)) as deployment:
        found = deployment.serve([Request((1, 2), 2), Request((3, 4, 5), 3)])
    assert [len(tokens) for tokens in found.tokens] == [2, 3]


def test_caches_that_grow_or_positions_for_all_rows_rule_sharing_out() -> None:
    plan = one_stage_plan(TINY, read(TINY))
    assert may_be_ragged(plan)
    grows = replace(plan.states[0], shape=("batch", 2, "cached", 32), in_place=False)
    assert not may_be_ragged(replace(plan, states=(grows, *plan.states[1:])))
    common = tuple(replace(f, shape=("new",)) if f.kind == "position_ids" else f for f in plan.feeds)
    assert not may_be_ragged(replace(plan, feeds=common))


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        ("position_ids", ("batch", "new"), [[3], [1]]),
        ("attention_mask", ("batch", "total"), [[1, 1, 1, 1], [1, 1, 0, 0]]),
        ("past_lengths", ("batch",), [3, 1]),
        ("write_indices", ("batch",), [3, 1]),
        ("kv_lengths", ("batch", 1), [[4], [2]]),
        ("total_length", (1,), [4]),
    ],
)
def test_a_feed_says_each_rows_length(kind: str, shape: tuple[int | str, ...], expected: object) -> None:
    lengths = Lengths(batch=2, cached=3, new=1, each=np.array([3, 1]))
    found = feed_array(Feed("x", kind, "int64", shape), lengths, np.array([[7], [8]]))
    np.testing.assert_array_equal(found, np.array(expected))
