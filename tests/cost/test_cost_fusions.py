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
    ids=[f"{op}{len(a) or ''}-{len(i)}" for op, i, _, a, _ in FUSIONS],
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


# Product, operands but A and B, and attributes, given [m, k] by [k, n] of that many 4-bit weights.
PRODUCTS: list[tuple[str, int]] = [
    ("MatMulNBits", 0), ("MatMulBnb4", 0), ("MatMulPacked", 0), ("MatMulFpQ4", 0), ("FusedMatMul", 0),
    ("FusedMatMulActivation", 0), ("TransposeMatMul", 0), ("MatMulBlockQuantizedFp4Weight", 0),
    ("MatMulBlockQuantizedFp8Weight", 0), ("FusedGemm", 0), ("GemmFloat8", 0), ("QGemm", 2),
    ("DynamicQuantizeMatMul", 0), ("MatMulIntegerToFloat", 0), ("MatMulInteger16", 0),
]  # fmt: skip


@pytest.mark.parametrize(("op", "between"), PRODUCTS, ids=[op for op, _ in PRODUCTS])
@given(m=SMALL, k=SMALL, n=SMALL)
@settings(max_examples=5)
def test_a_product_in_any_format_costs_what_the_plain_one_does(
    op: str, between: int, m: int, k: int, n: int
) -> None:
    inputs: list[Given] = [(m, k), *([()] * between), (k, n)]
    assert flops(MS + op, inputs, [(m, n)], K=k, N=n) == flops("MatMul", [(m, k), (k, n)], [(m, n)])


@pytest.mark.parametrize(
    "op", ["FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "FusedGemm", "GemmFloat8"]
)
@given(m=SMALL, k=SMALL, n=SMALL)
@settings(max_examples=5)
def test_a_transposed_product_costs_what_the_plain_one_does(op: str, m: int, k: int, n: int) -> None:
    plain = flops("MatMul", [(m, k), (k, n)], [(m, n)])
    assert flops(MS + op, [(k, m), (k, n)], [(m, n)], transA=1) == plain


def test_a_product_with_its_batch_inside_costs_what_the_plain_one_does() -> None:
    plain = flops("MatMul", [(5, 2, 3), (5, 3, 4)], [(5, 2, 4)])
    assert flops(f"{MS}FusedMatMul", [(2, 5, 3), (5, 3, 4)], [(5, 2, 4)], transBatchA=1) == plain
    assert flops(f"{MS}FusedMatMul", [(3, 5, 2), (5, 3, 4)], [(5, 2, 4)], transA=1, transBatchA=1) == plain


@given(m=SMALL, k=SMALL, n=SMALL, kv=SMALL, rank=SMALL)
@settings(max_examples=10)
def test_joined_projections_cost_what_single_ones_do(m: int, k: int, n: int, kv: int, rank: int) -> None:
    def single(columns: int, inner: int = k) -> float:
        return flops("MatMul", [(m, inner), (inner, columns)], [(m, columns)])

    norm = flops("RMSNormalization", [(m, k), (k,)], [(m, k)])
    qkv = flops(f"{MS}MatMulNBitsQkv", [(m, k), None, (k,)], [(m, n)], Nq=n, Nkv=kv)
    assert qkv == norm + single(n) + 2 * single(kv)
    mlp = flops(f"{MS}MatMulNBitsMlp", [(m, k), None, (k,)], [(m, n)], N=n, K=k)
    gates = flops("Sigmoid", [(m, n)], [(m, n)]) + 2 * flops("Mul", [(m, n)] * 2, [(m, n)])
    assert mlp == norm + 2 * single(n) + gates
    adapter = flops(f"{MS}MatMulNBitsQLoRA", [(m, k), None, None, (rank, 1, 8)], [(m, n)], N=n, K=k)
    assert adapter == single(n) + single(rank) + single(n, rank)


def test_packed_experts_cost_what_plain_ones_do() -> None:
    x, router, gate, down = (1, 6, 64), (6, 8), (8, 32, 64), (8, 64, 32)
    plain = flops(f"{MS}MoE", [x, router, gate, None, down, None, gate], [x], k=2)
    packed = flops(f"{MS}MoEPacked", [x, router, (8, 32, 36), (8, 32, 36), (8, 64, 18)], [x], k=2)
    mixed = flops(
        f"{MS}QMoE", [x, router, (8, 32, 32), None, None, (8, 64, 32), None, None, (8, 32, 16)], [x],
        k=2, fc2_expert_weight_bits=8, fc3_expert_weight_bits=2,
    )  # fmt: skip
    fp8 = flops(
        f"{MS}QMoE", [x, router, gate, None, None, down, None, None, gate], [x], k=2, quant_type="fp8"
    )
    assert plain == packed == mixed == fp8 == 2 * 6 * 2 * 3 * 64 * 32


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


def test_an_indexer_costs_a_score_for_each_block_of_keys() -> None:
    at = (2, 3, 97)
    assert (
        flops(f"{MS}SparseAttentionIndexer", [(2, 3, 32)], [(2, 3, 9)], at, compress_ratio=4) == 2 * 192 * 25
    )
