"""A fused op of com.microsoft costs what the standard ops cost that its documentation defines it by."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Given, Shape, flops

MS = "com.microsoft::"
SMALL = st.integers(1, 6)
Part = tuple[str, list[Given], list[Shape]]

X, ROW = (2, 5, 8), (8,)
ADD: Part = ("Add", [X, X], [X])
BIAS: Part = ("Add", [X, ROW], [X])
MUL: Part = ("Mul", [X, X], [X])
SIGMOID: Part = ("Sigmoid", [X], [X])
GELU: Part = ("Gelu", [X], [X])
RMS: Part = ("RMSNormalization", [X, ROW], [X])
ROTARY: Part = ("RotaryEmbedding", [X, (9, 4), (9, 4)], [X])
HEADS, WIDE = (2, 3, 5, 8), (2, 5, 16)
TWICE: Part = ("Add", [WIDE, (16,)], [WIDE])

FUSIONS: list[tuple[str, list[Given], list[Shape], dict[str, Any], list[Part]]] = [
    ("Gelu", [X], [X], {}, [GELU]),
    ("BiasGelu", [X, ROW], [X], {}, [BIAS, GELU]),
    ("QuickGelu", [X], [X], {}, [("Mul", [X, ()], [X]), SIGMOID, MUL]),
    ("ScaledSiLU", [X], [X], {}, [("Mul", [X, ()], [X]), SIGMOID, MUL]),
    ("BiasSplitGelu", [WIDE, (16,)], [X], {}, [TWICE, GELU, MUL]),
    ("BiasAdd", [X, ROW, X], [X], {}, [BIAS, ADD]),
    ("BiasSoftmax", [X, X], [X], {}, [ADD, ("Softmax", [X], [X])]),
    ("RotaryEmbedding", [X, (2, 5), (9, 4), (9, 4)], [X], {}, [ROTARY]),
    ("MRotaryEmbedding", [X, (3, 2, 5), (9, 4), (9, 4)], [X], {}, [ROTARY]),
    ("BranchwiseRMSNorm", [X, ROW], [X], {}, [RMS]),
    ("RMSNormRotary", [X, ROW], [X], {}, [RMS, ROTARY]),
    ("GatedRMSNorm", [X, ROW, X], [X], {}, [RMS, SIGMOID, MUL, MUL]),
    ("GatedRMSNorm", [X, ROW, X], [X], {"activation": "sigmoid"}, [RMS, SIGMOID, MUL]),
    ("GatedAdd", [X, X, (2, 5, 1)], [X], {}, [("Mul", [X, (2, 5, 1)], [X]), ADD]),
    (
        "GatedAdd", [X, X, WIDE, (16, 1)], [X], {},
        [("MatMul", [WIDE, (16, 1)], [(2, 5, 1)]), ("Mul", [X, (2, 5, 1)], [X]), ADD],
    ),
    ("SwiGLU", [X, X], [X], {}, [SIGMOID, MUL, MUL]),
    (
        "SwiGLU", [X, X], [X], {"activation_alpha": 1.7, "activation_beta": 1.0, "limit": 7.0},
        [
            ("Clip", [X, None, ()], [X]), ("Clip", [X, (), ()], [X]),
            ("Mul", [X, ()], [X]), ("Add", [X, ()], [X]), SIGMOID, MUL, MUL,
        ],
    ),
    (
        "LinearAttentionGate", [X, ROW, ROW, X], [X, X], {},
        [BIAS, ("Softplus", [X], [X]), ("Mul", [X, ROW], [X]), SIGMOID],
    ),
    (
        "GemmaRotaryEmbedding", [X, HEADS, HEADS, X, X], [HEADS, X], {},
        [
            ("Sin", [X], [X]), ("Cos", [X], [X]), MUL, MUL, ADD,
            ("Mul", [HEADS, HEADS], [HEADS]), ("Mul", [HEADS, HEADS], [HEADS]),
            ("Add", [HEADS, HEADS], [HEADS]),
        ],
    ),
    (
        "EmbedLayerNormalization", [(2, 5), (2, 5), (99, 8), (9, 8), (2, 8), ROW, ROW], [X], {},
        [ADD, ADD, ("LayerNormalization", [X, ROW, ROW], [X])],
    ),
    (
        "EmbedLayerNormalization", [(2, 5), None, (99, 8), (9, 8), None, ROW, ROW], [X], {},
        [ADD, ("LayerNormalization", [X, ROW, ROW], [X])],
    ),
    (
        "QEmbedLayerNormalization", [(2, 5), None, (99, 8), (9, 8), None, ROW, ROW], [X], {},
        [ADD, ("LayerNormalization", [X, ROW, ROW], [X])],
    ),
    ("EngramGate", [X, X, (2, 8)], [X], {}, [RMS, RMS, MUL, ("ReduceSum", [X], [(2, 5)]), MUL]),
    ("EngramGate", [X, X, (2, 8)], [X, X], {}, [RMS, RMS, MUL, ("ReduceSum", [X], [(2, 5)]), MUL, RMS]),
    (
        "SkipLayerNormalization", [X, X, ROW, ROW, ROW], [X], {},
        [ADD, BIAS, ("LayerNormalization", [X, ROW, ROW], [X])],
    ),
    ("SkipSimplifiedLayerNormalization", [X, X, ROW, ROW], [X], {}, [ADD, BIAS, RMS]),
    ("QuantizeLinear", [X], [X], {}, [("QuantizeLinear", [X, ()], [X])]),
    ("DequantizeLinear", [X], [X], {}, [("DequantizeLinear", [X, ()], [X])]),
    (
        "CausalConvWithState", [X, (5, 1, 3)], [X], {"activation": "silu"},
        [("Conv", [(2, 5, 10), (5, 1, 3)], [X]), SIGMOID, MUL],
    ),
    (
        "VarlenCausalConvWithState", [(7, 5), (5, 1, 3)], [(7, 5)], {},
        [("Conv", [(1, 5, 9), (5, 1, 3)], [(1, 5, 7)])],
    ),
    ("MoEGroupRouter", [(6, 32), (8,), (8, 32)], [(6, 8)], {}, [("MatMul", [(6, 32), (32, 8)], [(6, 8)])]),
    (
        "RouterGateUpProj", [X, (8, 6 + 2 * 8)], [(2, 5, 6), X], {},
        [("MatMul", [X, (8, 22)], [(2, 5, 22)]), SIGMOID, MUL, MUL],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attributes", "parts"),
    FUSIONS,
    ids=[f"{op}-{len(i)}-{len(o)}-{len(a)}" for op, i, o, a, _ in FUSIONS],
)
def test_a_fused_op_costs_its_parts(
    op: str, inputs: list[Given], outputs: list[Shape], attributes: dict[str, Any], parts: list[Part]
) -> None:
    assert flops(MS + op, inputs, outputs, **attributes) == sum(flops(*part) for part in parts)


def test_fast_gelu_costs_the_approximation_and_its_bias() -> None:
    plain = flops("Gelu", [X], [X], approximate="tanh")
    assert flops(f"{MS}FastGelu", [X], [X]) == plain
    assert flops(f"{MS}FastGelu", [X, ROW], [X]) == plain + flops(*BIAS)
    product = flops("MatMul", [X, (8, 8)], [X])
    assert flops(f"{MS}GemmFastGelu", [X, (8, 8), ROW], [X]) == product + plain + flops(*BIAS)


def test_linear_attention_costs_the_same_in_every_domain_and_layout() -> None:
    batch, tokens, heads, dk, dv = 2, 3, 4, 5, 6
    rows = (batch, tokens)
    packed = [
        (*rows, 2 * heads * dk),
        (*rows, heads * dk),
        (*rows, heads * dv),
        None,
        (*rows, heads),
        (*rows, heads),
    ]
    out, state = (*rows, 2 * heads * dv), (batch, heads, dk, dv)
    options: dict[str, Any] = {"q_num_heads": 2 * heads, "kv_num_heads": heads}
    standard = flops("LinearAttention", packed, [out, state], **options)
    assert flops(f"{MS}LinearAttention", packed, [out, state], **options) == standard
    total = batch * tokens
    major: list[Given] = [
        (total, 2 * heads, dk), (total, heads, dk), (total, heads, dv), None, (total, heads), (total, heads),
    ]  # fmt: skip
    outputs = [(total, 2 * heads, dv), (batch, heads, dv, dk)]
    assert flops(f"{MS}GatedDeltaNet", major, outputs) == standard


def test_a_selective_state_costs_a_gated_recurrence_behind_its_taps() -> None:
    rows, heads, state, width, channels = 5, 2, 6, 4, 20
    recurrence = flops(
        f"{MS}LinearAttention",
        [
            (1, rows, heads * state),
            (1, rows, heads * state),
            (1, rows, heads * width),
            None,
            (1, rows, heads),
        ],
        [(1, rows, heads * width)],
        kv_num_heads=heads,
    )
    taps = flops(f"{MS}CausalConvWithState", [(1, channels, rows), (channels, 1, 4)], [(1, channels, rows)])
    inputs: list[Given] = [(rows, 99), (3, channels, 3), (3, heads, state, width), (channels, 4)]
    assert flops(f"{MS}Mamba2Verify", inputs, [(rows, heads * width)]) == recurrence + taps


@given(tokens=SMALL, streams=SMALL, width=SMALL, rank=SMALL)
@settings(max_examples=10)
def test_hyper_connections_cost_their_products_norms_and_mixes(
    tokens: int, streams: int, width: int, rank: int
) -> None:
    flat, one = (tokens, streams * width), (tokens, width)
    weighted = flops("Mul", [flat, flat], [flat]) + flops("ReduceSum", [flat], [one])
    assert flops(f"{MS}HyperConnectionPreMix", [flat, (tokens, streams)], [one]) == weighted
    injected = flops("Mul", [flat, flat], [flat]) + flops("Add", [flat, flat], [flat])
    mixed = flops(
        "MatMul", [(tokens, streams, streams), (tokens, streams, width)], [(tokens, streams, width)]
    )
    op = f"{MS}HyperConnectionPostMix"
    assert flops(op, [flat, one, (tokens, streams)], [flat]) == injected
    inputs: list[Given] = [flat, one, (tokens, streams), (tokens, streams, streams)]
    assert flops(op, inputs, [flat]) == injected + mixed
    columns = 2 * rank + streams  # down, up and inject
    gate = flops("Sigmoid", [flat], [flat]) + flops("RMSNormalization", [flat, flat], [flat])
    parts = 2 * flat[0] * flat[1] * columns + gate + weighted
    low: list[Given] = [flat, flat[1:], (flat[1], rank), (rank, flat[1]), (flat[1], streams)]
    assert flops(f"{MS}HyperConnectionLowRankMix", low, [one, (tokens, streams)]) == parts
    low += [one, (tokens, streams)]
    assert flops(f"{MS}HyperConnectionLowRankMix", low, [one, (tokens, streams)]) == parts + injected


@pytest.mark.parametrize("op", ["SparseAttentionIndexer", "PackedSparseAttentionIndexer"])
def test_an_indexer_costs_a_score_for_each_block_of_keys(op: str) -> None:
    packed, at = (6, 32), (2, 3, 97)
    assert flops(MS + op, [packed], [(6, 9)], at, compress_ratio=4) == 2 * 192 * 25
