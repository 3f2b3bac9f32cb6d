"""Products of com.microsoft cost what plain ones do, whatever their format and whatever is joined in them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Given, flops

MS = "com.microsoft::"
SMALL = st.integers(1, 6)

PRODUCTS: list[tuple[str, int]] = [
    ("MatMulNBits", 0), ("MatMulBnb4", 0), ("MatMulPacked", 0), ("MatMulFpQ4", 0), ("FusedMatMul", 0),
    ("FusedMatMulActivation", 0), ("TransposeMatMul", 0), ("MatMulBlockQuantizedFp4Weight", 0),
    ("MatMulBlockQuantizedFp8Weight", 0), ("FusedGemm", 0), ("GemmFloat8", 0), ("QGemm", 2),
    ("DynamicQuantizeMatMul", 0), ("MatMulIntegerToFloat", 0), ("MatMulInteger16", 0),
]  # fmt: skip
"""Ops, with how many inputs they have between A and B."""


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
