"""Attention of com.microsoft against onnxruntime's kernels: same numbers, every product counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from counting import Tally, tally
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import random, run, several
from reference import flops

Array = npt.NDArray[Any]
SMALL = st.integers(1, 4)


def _attend(q: Array, k: Array, v: Array, causal: bool) -> Any:
    """Attention by heads; what the causal mask hides is multiplied like all else."""
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) / np.sqrt(q.shape[-1])
    new, total = scores.shape[-2:]
    hidden = causal & (np.arange(total) > np.arange(total - new, total)[:, None])
    weights = np.exp(np.where(hidden, -np.inf, np.asarray(scores)))
    return np.matmul((weights / weights.sum(-1, keepdims=True)).view(Tally), v)


def _heads(packed: Array, heads: int) -> Array:
    return np.swapaxes(packed.reshape(*packed.shape[:2], heads, -1), 1, 2)


def _packed(heads: Array) -> Array:
    return np.swapaxes(heads, 1, 2).reshape(heads.shape[0], heads.shape[2], -1)


def _check(
    op: str, inputs: Sequence[Array | None], q: Array, k: Array, v: Array, outputs: int = 1, **more: Any
) -> None:
    """The kernel computes what ``_attend`` does, and the rule counts its products."""
    results = run(op, inputs, outputs, **more)
    mine: list[Array] = []
    causal = bool(more.get("unidirectional", 1))
    counted = tally(lambda: mine.append(_attend(q.view(Tally), k.view(Tally), v.view(Tally), causal)))
    np.testing.assert_allclose(results[0], _packed(np.asarray(mine[0])), atol=1e-4)
    at = (q.shape[0], q.shape[2], k.shape[2] - q.shape[2])
    shapes = [None if i is None else np.empty(i.shape) for i in inputs]
    extra = _projection(op, inputs)
    assert flops(f"com.microsoft::{op}", shapes, results, at, **more) == counted["product"] + extra


def _projection(op: str, inputs: Sequence[Array | None]) -> int:
    if op != "Attention" or inputs[0] is None or inputs[1] is None:
        return 0
    source, weights = inputs[0].view(Tally), inputs[1]
    return tally(lambda: np.matmul(source, weights))["product"]


@given(batch=SMALL, new=SMALL, past=st.integers(0, 4), heads=SMALL, width=SMALL)
@settings(max_examples=20)
def test_multi_head_attention_costs_every_key(
    batch: int, new: int, past: int, heads: int, width: int
) -> None:
    q, k, v = several(3, batch, new, heads * width)
    old = several(2, batch, heads, past, width)
    inputs = [q, k, v, None, None, None, *(old if past else [])]
    keys, values = (np.concatenate([o, _heads(x, heads)], axis=2) for x, o in zip((k, v), old, strict=True))
    options: dict[str, Any] = {"num_heads": heads, "unidirectional": 1}
    _check("MultiHeadAttention", inputs, _heads(q, heads), keys, values, 3 if past else 1, **options)


@given(batch=SMALL, tokens=SMALL, others=SMALL, heads=SMALL, width=SMALL)
@settings(max_examples=10)
def test_other_layouts_of_heads_cost_the_same(
    batch: int, tokens: int, others: int, heads: int, width: int
) -> None:
    q = random(batch, tokens, heads * width)
    k, v = several(2, batch, heads, others, width)
    _check("MultiHeadAttention", [q, k, v], _heads(q, heads), k, v, num_heads=heads, unidirectional=0)
    op, crossed = "com.microsoft::MultiHeadAttention", [q.shape, k.shape, v.shape]
    own = [q.shape] * 3
    assert flops(op, [(batch, tokens, heads, 3, width)], [q.shape]) == flops(op, own, [q.shape])
    assert flops(op, [q.shape, (batch, others, heads, 2, width)], [q.shape]) == flops(op, crossed, [q.shape])
    assert flops("com.microsoft::DecoderMaskedMultiHeadAttention", crossed, [q.shape]) == flops(
        op, crossed, [q.shape]
    )


@given(batch=SMALL, new=SMALL, past=st.integers(0, 4), kv=st.integers(1, 2), group=st.integers(1, 3))
@settings(max_examples=20)
def test_grouped_queries_cost_every_query_head(batch: int, new: int, past: int, kv: int, group: int) -> None:
    width, new = 8, 1 if past else new
    q = random(batch, new, kv * group * width)
    k, v = several(2, batch, new, kv * width)
    old = several(2, batch, kv, past, width)
    lengths = np.full(batch, past + new - 1, dtype=np.int32)
    inputs = [q, k, v, *old, lengths, np.asarray(past + new, dtype=np.int32)]
    keys, values = (
        np.repeat(np.concatenate([o, _heads(x, kv)], axis=2), group, axis=1)
        for x, o in zip((k, v), old, strict=True)
    )
    options: dict[str, Any] = {"num_heads": kv * group, "kv_num_heads": kv}
    _check("GroupQueryAttention", inputs, _heads(q, kv * group), keys, values, 3, **options)


@given(batch=SMALL, new=SMALL, past=st.integers(0, 4), heads=SMALL, width=SMALL, hidden=SMALL)
@settings(max_examples=20)
def test_attention_with_its_projection_costs_both(
    batch: int, new: int, past: int, heads: int, width: int, hidden: int
) -> None:
    x, w, b = random(batch, new, hidden), random(hidden, 3 * heads * width), random(3 * heads * width)
    q, k, v = (_heads(part, heads) for part in np.split(x @ w + b, 3, axis=-1))
    old = random(2, batch, heads, past, width)
    inputs: list[Array | None] = [x, w, b, None, *([old] if past else [])]
    k, v = (np.concatenate([o, x], axis=2) for o, x in zip(old, (k, v), strict=True))
    _check("Attention", inputs, q, k, v, 2 if past else 1, num_heads=heads, unidirectional=1)


def test_kernels_for_accelerators_cost_what_their_extents_say() -> None:
    tokens, heads, width, sequence = 7, 2, 8, 5
    hidden = heads * width
    wide, offsets = (tokens, hidden), (2, sequence)
    weighted = 4 * tokens * hidden * sequence
    packed = flops("com.microsoft::PackedMultiHeadAttention", [wide, wide, wide, None, offsets], [wide])
    assert packed == weighted
    whole = flops(
        "com.microsoft::PackedAttention", [wide, (hidden, 3 * hidden), (3 * hidden,), offsets], [wide]
    )
    assert whole == weighted + 2 * tokens * hidden * 3 * hidden
    cached = flops("com.microsoft::PagedAttention", [wide, wide, wide], [wide], (tokens, 1, 11))
    assert cached == 4 * tokens * hidden * 12
    latent = flops("com.microsoft::PagedAttention", [(tokens, 3 * hidden), wide], [wide], (tokens, 1, 11))
    assert latent == 2 * tokens * (3 * hidden + hidden) * 12


def test_selected_attention_costs_what_may_be_selected_and_its_window() -> None:
    q = (2, 3, 16)
    inputs = [q, q, q, (2, 2, 99, 8), (2, 2, 99, 8), None, None, (6, 5), (6,)]
    op, at = "com.microsoft::DynamicSparseAttention", (2, 3, 97)
    local: dict[str, Any] = {"attention_mode": "local_plus_selected"}
    assert flops(op, inputs, [q], at) == 4 * 96 * 5
    assert flops(op, inputs, [q], at, local_window_size=8, **local) == 4 * 96 * (5 + 8)
    assert flops(op, inputs, [q], at, **local) == 4 * 96 * (5 + 100)
