from pathlib import Path

import numpy as np
import pytest
from counting import Objects, array, multiply_adds
from hypothesis import given, settings
from hypothesis import strategies as st

from disaggc.cost import CostRules, Op, Operand, load_rules, price
from disaggc.errors import DeclarationError
from disaggc.frontends import onnx_signatures
from disaggc.ir import Mark, Role, Routing
from disaggc.ir.graph import Attribute

RULES = load_rules(onnx_signatures())
SMALL = st.integers(1, 5)


def _flops(
    kind: str, inputs: list[tuple[int, ...] | None], output: tuple[int, ...], **attributes: Attribute
) -> float:
    operands = tuple(None if shape is None else Operand(shape) for shape in inputs)
    priced = price(Op(kind, tuple(attributes.items()), operands, (Operand(output),)), RULES.by_op[kind])
    assert priced.complaint == ""
    constant = priced.cost.flops.constant
    assert constant is not None
    return constant


@given(SMALL, SMALL, SMALL, SMALL)
@settings(max_examples=30)
def test_matmul_costs_two_flops_a_multiply_add(b: int, m: int, k: int, n: int) -> None:
    counted = multiply_adds(lambda: array(b, m, k) @ array(k, n))
    assert _flops("MatMul", [(b, m, k), (k, n)], (b, m, n)) == 2 * counted


@given(SMALL, SMALL, SMALL, st.booleans())
@settings(max_examples=30)
def test_gemm_costs_two_flops_a_multiply_add_transposed_or_not(m: int, k: int, n: int, flip: bool) -> None:
    a = array(k, m) if flip else array(m, k)
    counted = multiply_adds(lambda: (a.T if flip else a) @ array(k, n))
    assert _flops("Gemm", [a.shape, (k, n)], (m, n), transA=int(flip)) == 2 * counted


@given(SMALL, st.integers(1, 2), st.integers(1, 2), SMALL, st.integers(0, 3), SMALL, SMALL)
@settings(max_examples=30)
def test_attention_costs_scores_and_weighted_sum_over_past_and_new(
    batch: int, kv: int, group: int, new: int, past: int, width: int, value: int
) -> None:
    heads, total = kv * group, past + new
    q, k, v = (
        array(batch, heads, new, width),
        array(batch, heads, width, total),
        array(batch, heads, total, value),
    )
    counted = multiply_adds(lambda: _attend(q, k, v))
    inputs: list[tuple[int, ...] | None] = [q.shape, (batch, kv, new, width), (batch, kv, new, value), None]
    if past:
        inputs += [(batch, kv, past, width), (batch, kv, past, value)]
    assert _flops("Attention", inputs, (batch, heads, new, value)) == 2 * counted


def _attend(q: Objects, k: Objects, v: Objects) -> Objects:
    scores: Objects = q @ k
    result: Objects = scores @ v
    return result


@given(SMALL, st.integers(1, 4), SMALL, SMALL, st.integers(1, 4), st.booleans())
@settings(max_examples=30)
def test_moe_costs_the_chosen_experts_of_each_token(
    tokens: int, experts: int, hidden: int, inner: int, chosen: int, gated: bool
) -> None:
    chosen, wide = min(chosen, experts), 2 * inner if gated else inner
    up, down = array(experts, wide, hidden), array(experts, hidden, inner)
    counted = multiply_adds(lambda: [_expert(up[e], down[e]) for _ in range(tokens) for e in range(chosen)])
    inputs = [(1, tokens, hidden), (tokens, experts), up.shape, None, down.shape]
    assert _flops("com.microsoft::MoE", inputs, (1, tokens, hidden), k=chosen) == 2 * counted


def _expert(up: Objects, down: Objects) -> Objects:
    raised = up @ array(up.shape[1])
    lowered: Objects = down @ raised[: down.shape[1]]
    return lowered


@pytest.mark.parametrize("bits", [4, 8])
def test_a_packed_mixture_costs_what_the_unpacked_one_does(bits: int) -> None:
    shapes: list[tuple[int, ...] | None] = [(1, 3, 64), (3, 8), (8, 32, 64), None, (8, 64, 16)]
    plain = _flops("com.microsoft::MoE", shapes, (1, 3, 64), k=2)
    pack = 8 // bits
    packed: list[tuple[int, ...] | None] = [
        (1, 3, 64), (3, 8), (8, 32, 64 // pack), None, None, (8, 64, 16 // pack),
    ]  # fmt: skip
    kind = "com.microsoft::QMoE"
    assert _flops(kind, packed, (1, 3, 64), k=2, expert_weight_bits=bits) == plain


def test_int4_products_cost_what_plain_ones_do() -> None:
    packed = _flops("com.microsoft::MatMulNBits", [(2, 64), (32, 2, 16), (64,)], (2, 32), N=32, K=64, bits=4)
    assert packed == _flops("MatMul", [(2, 64), (64, 32)], (2, 32))


def test_only_the_rows_of_a_table_are_read_and_not_the_table() -> None:
    table = Operand((1000, 64), 16, is_weight=True, is_traffic=False)
    lookup = price(Op("Gather", (), (table, Operand((2, 3))), (Operand((2, 3, 64)),)), RULES.by_op["Gather"])
    assert lookup.cost.weight_elements == {}
    assert lookup.cost.activation_out.constant == 2 * 3 * 64
    rotation = RULES.by_op["RotaryEmbedding"]
    turned = price(
        Op("RotaryEmbedding", (), (Operand((2, 3, 64)), table, table), (Operand((2, 3, 64)),)), rotation
    )
    assert turned.cost.weight_elements == {}


def test_a_weight_beyond_the_named_inputs_is_still_read() -> None:
    weight = Operand((8, 4), 16, is_weight=True, is_traffic=False)
    joined = price(Op("Concat", (), (Operand((1, 4)), weight), (Operand((9, 4)),)), RULES.by_op["Concat"])
    assert joined.cost.weight_elements == {16: 32}


def test_an_op_without_a_rule_costs_the_bytes_that_it_moves() -> None:
    weight = Operand((8, 4), 16, is_weight=True, is_traffic=False)
    unknown = price(Op("acme::Fold", (), (Operand((2, 4)), weight, None), (Operand((2, 8)),)), None)
    assert unknown.complaint == "No cost rule for acme::Fold"
    assert (unknown.cost.activation_in.constant, unknown.cost.activation_out.constant) == (8, 16)
    assert unknown.cost.weight_elements == {16: 32}


def _library(folder: Path, text: str) -> CostRules:
    (folder / "passes" / "costs").mkdir(parents=True)
    (folder / "passes" / "costs" / "mine.toml").write_text(text)
    return load_rules(onnx_signatures(), folder)


def test_a_users_rule_prices_their_op(tmp_path: Path) -> None:
    rules = _library(
        tmp_path,
        '[[rule]]\nops = ["acme::Fold"]\nkind = "gemm"\ninputs = ["X", "W"]\noutputs = ["Y"]\n'
        'flops = "2 * size(Y) * dim(W, 0)"\n',
    )
    op = Op("acme::Fold", (), (Operand((3, 4)), Operand((4, 5))), (Operand((3, 5)),))
    assert price(op, rules.by_op["acme::Fold"]).cost.flops.constant == 2 * 3 * 5 * 4
    assert rules.by_op.keys() == RULES.by_op.keys() | {"acme::Fold"}


def test_a_users_rule_goes_before_the_shipped_one(tmp_path: Path) -> None:
    rules = _library(tmp_path, '[[rule]]\nops = ["MatMul"]\nkind = "gemm"\nflops = "7 * size(Y)"\n')
    op = Op("MatMul", (), (Operand((3, 4)), Operand((4, 5))), (Operand((3, 5)),))
    assert price(op, rules.by_op["MatMul"]).cost.flops.constant == 7 * 3 * 5


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            'ops = ["MatMul"]\nkind = "gemm"\nflops = "size(YY)"',
            "Its schema has no input or output 'YY'. Did you mean 'Y'?",
        ),
        (
            'ops = ["Gather"]\nkind = "embedding"\nrows = ["dat"]',
            "Its schema has no input 'dat'. Did you mean 'data'?",
        ),
        (
            'ops = ["Gemm"]\nkind = "gemm"\ndefaults = { tranA = 0 }',
            "no attribute 'tranA'. Did you mean 'transA'?",
        ),
        ('ops = ["MatMul"]\nkind = "gem"', "Unknown kind 'gem'. Did you mean 'gemm'?"),
        ('ops = ["MatMull"]\nkind = "gemm"', "No schema has this op. Did you mean 'MatMul'?"),
        ('ops = ["MatMul"]\nkind = "gemm"\nflop = "1"', "Unknown key 'flop'. Did you mean 'flops'?"),
        ('ops = ["MatMul"]', "Key 'kind' is missing."),
        ('ops = ["MatMul"]\nkind = "gemm"\nflops = "open(A)"', "'open(A)' is no cost formula"),
        ('ops = ["MatMul"]\nkind = "gemm"\nflops = 3', "Expected a text, got 3."),
        (
            'ops = ["Reshape"]\nkind = "free"',
            "Kind 'free' without a reason. Say why it costs nothing in 'why'.",
        ),
        ('ops = ["Gemm"]\nkind = "gemm"\nflops = "count(A)"', "Its schema has no last input 'A'."),
        (
            'ops = ["Gemm"]\nkind = "gemm"\nflops = "size(alpha)"',
            "Its schema has no input or output 'alpha'.",
        ),
        ('ops = ["Gemm"]\nkind = "gemm"\nflops = "volume(A)"', "Its schema has no attribute 'A'."),
        ('ops = ["Gemm"]\nkind = "gemm"\nflops = "2 * B"', "Its schema has no attribute 'B'."),
        ('ops = ["Gemm"]\nkind = "gemm"\nflops = "1 if A == \'a\' else 2"', "has no attribute 'A'."),
        ('ops = ["Gemm"]\nkind = "gemm"\nflops = "1 if has(D) else 2"', "Its schema has no name 'D'."),
        ('ops = ["Gather"]\nkind = "embedding"\nrows = ["output"]', "Its schema has no input 'output'."),
    ],
)
def test_a_misspelt_rule_is_refused_with_the_nearest_name(tmp_path: Path, rule: str, words: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        _library(tmp_path, f"[[rule]]\n{rule}\n")
    assert words in str(refusal.value)
    assert "mine.toml" in str(refusal.value)


def test_experts_are_billed_by_routing_and_shared_weights_are_not() -> None:
    mark = Mark(Role.EXPERTS, 0, 1, "test", Routing(8, 2))
    up, down = Operand((8, 32, 16), 16, True, False), Operand((8, 16, 16), 16, True, False)
    op = Op(
        "com.microsoft::MoE",
        (("k", 2),),
        (Operand((3, 16)), Operand((3, 8)), up, None, down),
        (Operand((3, 16)),),
        mark,
    )
    cost = price(op, RULES.by_op["com.microsoft::MoE"]).cost
    assert (cost.weight_elements, cost.expert_elements) == ({}, {16: 8 * 32 * 16 + 8 * 16 * 16})
    assert cost.routing == Routing(8, 2)


def test_masked_experts_cost_the_chosen_share() -> None:
    weight = Operand((16, 16), 16, True, False)
    op = Op("MatMul", (), (Operand((3, 16)), weight), (Operand((3, 16)),))
    masked = op._replace(mark=Mark(Role.EXPERTS, 0, 1, "test", Routing(8, 2), all_tokens=True))
    plain, share = (price(o, RULES.by_op["MatMul"]).cost for o in (op, masked))
    assert share.flops == plain.flops / 4
    assert (plain.weight_elements, share.weight_elements) == ({16: 256}, {})
    assert share.expert_elements == {16: 256}


def test_rates_vectorise_over_a_grid() -> None:
    grid = RULES.by_op["MatMul"]
    op = Op("MatMul", (), (Operand(("batch", "new", 4)), Operand((4, 8))), (Operand(("batch", "new", 8)),))
    flops = price(op, grid).cost.flops.evaluate(
        {"batch": np.asarray([[1.0], [2.0]]), "new": np.asarray([1.0, 3.0])}
    )
    assert flops.tolist() == [[64.0, 192.0], [128.0, 384.0]]
