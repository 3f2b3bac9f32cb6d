"""One model, any exporter, one cost; and costs of full-size models in closed form."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from skeletons import HUGE, MODELS, SKELETONS

from disaggc.cost import Amounts, Bill, Formats
from disaggc.ir import Graph, Point, Role

Analysed = Callable[[str], Graph]

LLAMA = ("llama.dynamo.op18", "llama.dynamo.op23", "llama.gqa_moe", "mobius.llama", "mobius.llama.static")
QWEN3_MOE = ("qwen3_moe.batched_mm.dynamo.op23", "qwen3_moe.gqa_moe", "mobius.qwen3_moe")
POINTS = {
    "decode": (1, 1, 511),
    "first token": (1, 1, 0),
    "decode of 8": (8, 1, 100),
    "decode of 64": (64, 1, 1000),
    "prefill": (1, 512, 0),
    "prefill behind a cache": (4, 64, 64),
}
FULL = {
    "full.llama3_70b.torch": "llama3_70b",
    "full.qwen3_235b.moe_op": "qwen3_235b",
    HUGE: "qwen3_235b",
}


def _amounts(graph: Graph, point: tuple[int, int, int]) -> Amounts:
    return Bill.of(graph.costs, state_bits=32, activation_bits=32).amounts(Point(*point), Formats())


def _config(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((MODELS / "configs" / f"{FULL[name]}.json").read_text())
    return parsed


def _attention_elements(c: dict[str, Any]) -> int:
    """q, k, v and output projection of one layer."""
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    return int(c["hidden_size"] * c["head_dim"] * (2 * heads + 2 * kv))


def _ffn_elements(c: dict[str, Any], experts: int) -> int:
    """Gate, up and down of ``experts`` experts and their router, or of the one dense FFN."""
    if "num_local_experts" not in c:
        return int(3 * c["hidden_size"] * c["intermediate_size"])
    router = c["hidden_size"] * c["num_local_experts"]
    return int(experts * 3 * c["hidden_size"] * c["moe_intermediate_size"] + router)


def _active_elements(c: dict[str, Any]) -> int:
    """Elements of all matrices that one token is multiplied by, the head included."""
    layer = _attention_elements(c) + _ffn_elements(c, c.get("num_experts_per_tok", 1))
    return int(c["num_hidden_layers"] * layer + c["vocab_size"] * c["hidden_size"])


def _norm_elements(c: dict[str, Any], with_heads: bool) -> int:
    heads = 2 * c["head_dim"] if with_heads else 0
    return int(c["num_hidden_layers"] * (2 * c["hidden_size"] + heads) + c["hidden_size"])


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
@pytest.mark.parametrize("group", [LLAMA, QWEN3_MOE], ids=["llama", "qwen3_moe"])
def test_exporters_agree_on_flops_weights_and_state_within_2_percent(
    group: tuple[str, ...], point: tuple[int, int, int], analysed: Analysed
) -> None:
    known = [_amounts(analysed(name), point) for name in group]
    for quantity in (
        [float(a.flops) for a in known],
        [float(a.weight_bytes + a.expert_bytes) for a in known],
        [float(a.state_read_bytes) for a in known],
        [float(a.state_write_bytes) for a in known],
    ):
        assert min(quantity) > 0
        assert max(quantity) <= 1.02 * min(quantity), dict(zip(group, quantity, strict=True))


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
def test_int4_weights_change_bytes_and_no_flops(point: tuple[int, int, int], analysed: Analysed) -> None:
    packed, plain = (_amounts(analysed(n), point) for n in ("genai.llama.int4", "mobius.llama"))
    assert float(packed.flops) == pytest.approx(float(plain.flops), rel=0.02)
    assert float(packed.state_read_bytes) == float(plain.state_read_bytes)
    assert 4.5 / 32 <= float(packed.weight_bytes) / float(plain.weight_bytes) <= 5.5 / 32


def test_exporters_agree_on_a_full_size_mixture(analysed: Analysed) -> None:
    for point in POINTS.values():
        unrolled, fused = (_amounts(analysed(n), point) for n in (HUGE, "full.qwen3_235b.moe_op"))
        assert float(unrolled.flops) == pytest.approx(float(fused.flops), rel=0.02)
        assert float(unrolled.expert_bytes) == pytest.approx(float(fused.expert_bytes), rel=0.001)
        assert float(unrolled.weight_bytes) == pytest.approx(float(fused.weight_bytes), rel=0.001)
        assert float(unrolled.state_read_bytes) == float(fused.state_read_bytes)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("full.llama3_70b.torch", 70.55),
        ("full.mixtral_8x22b.torch", 140.63),
        ("full.qwen3_235b.moe_op", 235.09),
        (HUGE, 235.09),
    ],
)
def test_full_models_declare_their_published_parameters(
    name: str, billions: float, analysed: Analysed
) -> None:
    graph = analysed(name)
    floats = [w for w in graph.weights.values() if w.dtype.is_float]
    declared = sum(w.elements for w in floats if w.shape[1:] != (64,))  # without cosines and sines
    assert round(declared / 1e9, 2) == billions


@pytest.mark.parametrize("name", FULL)
def test_matrices_of_full_models_are_counted_to_the_last_element(name: str, analysed: Analysed) -> None:
    graph, config = analysed(name), _config(name)
    matrices = [w.elements for w in graph.weights.values() if w.dtype.is_float and len(w.shape) > 1]
    tables = 2 * config["hidden_size"] * config["vocab_size"]
    layer = _attention_elements(config) + _ffn_elements(config, config.get("num_local_experts", 1))
    rotations = [w.elements for w in graph.weights.values() if w.shape[1:] == (config["head_dim"] // 2,)]
    assert sum(matrices) - sum(rotations) == config["num_hidden_layers"] * layer + tables


@pytest.mark.parametrize("name", FULL)
def test_a_bill_holds_every_weight_but_the_embedding_table(name: str, analysed: Analysed) -> None:
    config = _config(name)
    bill = Bill.of(analysed(name).costs)
    billed = sum(bill.weight_elements.values()) + sum(bill.expert_elements.values())
    layer = _attention_elements(config) + _ffn_elements(config, config.get("num_local_experts", 1))
    matrices = config["num_hidden_layers"] * layer + config["hidden_size"] * config["vocab_size"]
    with_heads = "moe_op" not in name and config["model_type"] == "qwen3_moe"
    scalars = billed - matrices - _norm_elements(config, with_heads)
    assert 0 <= scalars < 3000  # epsilons and scales that exporters write as constants


@pytest.mark.parametrize("context", [1, 1024, 131_072])
@pytest.mark.parametrize("name", FULL)
def test_decode_flops_are_twice_the_active_parameters_and_attention(
    name: str, context: int, analysed: Analysed
) -> None:
    config = _config(name)
    counted = float(_amounts(analysed(name), (1, 1, context - 1)).flops)
    heads = config["num_attention_heads"] * config["head_dim"]
    attention = 4 * config["num_hidden_layers"] * heads * context
    assert counted == pytest.approx(2 * _active_elements(config) + attention, rel=0.01)


@pytest.mark.parametrize("name", FULL)
def test_prefill_flops_per_token_are_those_of_decode(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    prefill, decode = (_amounts(graph, point) for point in ((1, 512, 0), (1, 1, 511)))
    assert float(prefill.flops) / 512 == pytest.approx(float(decode.flops), rel=0.001)


@pytest.mark.parametrize("name", FULL)
def test_a_token_keeps_keys_and_values_of_every_layer(name: str, analysed: Analysed) -> None:
    config = _config(name)
    bill = Bill.of(analysed(name).costs, state_bits=16)
    kept = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 2
    amounts = bill.amounts(Point(np.asarray([1.0, 8.0]), 1, 99), Formats())
    assert amounts.state_write_bytes.tolist() == [kept, 8 * kept]
    assert amounts.state_read_bytes.tolist() == [100 * kept, 800 * kept]


def test_a_latent_cache_is_counted_compressed(analysed: Analysed) -> None:
    amounts = _amounts(analysed("deepseek_v3.batched_mm.dynamo.op23"), (1, 1, 0))
    assert float(amounts.state_write_bytes) == 4 * (32 + 16) * 4  # layers, latent and rotated keys, float32


def test_a_window_bounds_what_attention_reads(analysed: Analysed) -> None:
    short, long = (_amounts(analysed("genai.gpt_oss.fp32"), (1, 1, n - 1)) for n in (64, 1064))
    token = 2 * 2 * 32 * 4  # keys and values, heads, width, float32
    assert (
        float(long.state_read_bytes - short.state_read_bytes) == 2 * 1000 * token
    )  # 2 layers of 4 have no window


@pytest.mark.parametrize("name", SKELETONS)
def test_every_op_is_priced_by_a_rule(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    assert not [warning for warning in graph.warnings if "cost" in warning or "flops" in warning]
    assert len(graph.costs) == len(graph.nodes)


@pytest.mark.parametrize("name", SKELETONS)
def test_state_is_read_in_core_attention_and_weights_of_experts_in_experts(
    name: str, analysed: Analysed
) -> None:
    graph = analysed(name)
    pairs = list(zip(graph.costs, graph.marks, strict=True))
    assert {m.role for c, m in pairs if c.state_read.terms} == {Role.CORE_ATTENTION}
    assert {m.role for c, m in pairs if c.expert_elements} <= {Role.EXPERTS}
