"""Networks in every form that is known, cut into shards: the terms add up to what the uncut one gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from .networks import (
    fused_experts,
    fused_gate,
    gated,
    gelu_mlp,
    gemm_mlp,
    interleaved_gate,
    looked_up_experts,
    packed_weights,
    quantised_experts,
    transposed_weights,
    two_layers,
    written_out_experts,
)
from .shards import Network, Shared, cut, gap

BOUND = 1e-5
"""Of the largest number: sums in another order round differently."""

DENSE: dict[str, Callable[[], Network]] = {
    "gelu": gelu_mlp,
    "gemm": gemm_mlp,
    "gated": gated,
    "fused gate": fused_gate,
    "interleaved gate": interleaved_gate,
    "transposed weights": transposed_weights,
    "packed": lambda: packed_weights(flat=False, zero_points=False),
    "packed, zero points": lambda: packed_weights(flat=False, zero_points=True),
    "packed flat, zero points": lambda: packed_weights(flat=True, zero_points=True),
    "two layers": two_layers,
}
EXPERTS: dict[str, Callable[[], Network]] = {
    "normalised": lambda: fused_experts(normalised=True),
    "as they are": lambda: fused_experts(normalised=False),
    "swiglu": lambda: fused_experts(normalised=True, activation="swiglu"),
    "written out": written_out_experts,
    "looked up": looked_up_experts,
}


def rules(shared: Shared) -> Counter[str]:
    return Counter(seed.rule for seed in shared.scheme.seeds.values())


@pytest.mark.parametrize("shards", [2, 4])
@pytest.mark.parametrize("form", DENSE)
def test_a_dense_network_is_cut_by_columns_and_rows(form: str, shards: int, tmp_path: Path) -> None:
    network = DENSE[form]()
    shared = cut(network, tmp_path, f"tp{shards}")
    assert not shared.scheme.faults
    assert set(rules(shared)) == {"row parallel"}
    assert gap(network, shared, tmp_path) < BOUND


@pytest.mark.parametrize("degree", ["tp2", "tp4", "ep2", "ep4", "ep8"])
@pytest.mark.parametrize("form", EXPERTS)
def test_experts_are_cut_within_or_shared_out(form: str, degree: str, tmp_path: Path) -> None:
    network = EXPERTS[form]()
    shared = cut(network, tmp_path, degree)
    assert not shared.scheme.faults
    assert gap(network, shared, tmp_path) < BOUND


@pytest.mark.parametrize("degree", ["ep2", "ep8"])
def test_quantised_experts_are_shared_out(degree: str, tmp_path: Path) -> None:
    network = quantised_experts()
    shared = cut(network, tmp_path, degree)
    assert rules(shared) == {"expert parallel": 1}
    assert gap(network, shared, tmp_path) < BOUND


def test_each_form_of_experts_has_its_rule(tmp_path: Path) -> None:
    found = {}
    for form in ("normalised", "written out", "looked up"):
        (folder := tmp_path / form).mkdir()
        found[form] = rules(cut(EXPERTS[form](), folder, "ep2"))
    assert found == {
        "normalised": {"expert parallel": 1},
        "written out": {"expert term": 8, "row parallel": 1},
        "looked up": {"expert lookup": 1},
    }


def test_a_token_goes_to_the_shards_of_its_experts_alone(tmp_path: Path) -> None:
    """Dispatch: the op that computes experts sees one row for each pair of this shard."""
    shared = cut(fused_experts(normalised=True), tmp_path, "ep2")
    for turn in shared.turns:
        moe = next(node for node in turn.model.graph.node if node.op_type == "MoE")
        assert {a.name: a.i for a in moe.attribute if a.name == "k"} == {"k": 1}
        weights = {t.name: list(t.dims) for t in turn.model.graph.initializer}
        assert weights[moe.input[2]][0] == 4


def held(shared: Shared, shard: int) -> int:
    """Bytes of files that a shard refers to."""
    lengths = (
        int(entry.value)
        for turn in shared.turns
        if turn.shard == shard
        for tensor in turn.model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "length"
    )
    return sum(lengths)


def test_a_shard_refers_to_its_own_experts_only(tmp_path: Path) -> None:
    network = fused_experts(normalised=True)
    shared = cut(network, tmp_path, "ep4")
    experts = sum(network.weights[name].nbytes for name in ("w1", "b1", "w2", "b2"))
    router = network.weights["wr"].nbytes
    assert [held(shared, shard) for shard in range(4)] == [experts // 4 + router] * 4


def test_terms_of_experts_are_on_one_shard_each(tmp_path: Path) -> None:
    shared = cut(written_out_experts(), tmp_path, "ep4")
    for turn in shared.turns:
        own = {t.name for t in turn.model.graph.initializer if t.name[0] in "ud" and t.name[1:].isdigit()}
        first = 2 * turn.shard
        assert own == {f"{side}{e}" for side in "ud" for e in (first, first + 1)}


def test_a_bias_and_a_residual_stream_are_added_once(tmp_path: Path) -> None:
    shared = cut(gelu_mlp(), tmp_path, "tp2")
    first, second = (turn.model for turn in shared.turns)
    assert {"b2", "x"} <= {n for node in first.graph.node for n in node.input}
    assert "b2" not in {n for node in second.graph.node for n in node.input}


def test_what_needs_a_sum_is_computed_by_the_owner_between_shared_turns(tmp_path: Path) -> None:
    shared = cut(two_layers(), tmp_path, "tp2")
    assert [(turn.level, turn.shard) for turn in shared.turns] == [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]
    owner = shared.turns[2].model
    assert {"s@0", "s@1"} <= {value.name for value in owner.graph.input}
    sends = {value.name for value in owner.graph.output}
    reads = {value.name for value in shared.turns[4].model.graph.input}
    assert reads <= sends


def test_a_wrong_slice_does_not_go_unseen(tmp_path: Path) -> None:
    """Each shard's weights matter: those of another in their place change the sum."""
    for form, network in {**DENSE, **EXPERTS}.items():
        (folder := tmp_path / form).mkdir()
        made = network()
        degree = "ep2" if form in EXPERTS else "tp2"
        shared = cut(made, folder, degree)
        second = next(i for i, turn in enumerate(shared.turns) if turn.shard == 1)
        _take_the_place_of_shard_0(shared, second)
        assert gap(made, shared, folder) > 100 * BOUND, form


def _take_the_place_of_shard_0(shared: Shared, index: int) -> None:
    """Give a turn of shard 1 the first cut of every weight, where it had the second."""
    wrong = shared.turns[index].model.graph
    offsets: dict[str, TensorProto] = {}
    for turn in shared.turns:
        if turn.shard == 0:
            offsets |= {
                t.name.partition("/cut")[0]: t for t in turn.model.graph.initializer if "/cut" in t.name
            }
    for tensor in wrong.initializer:
        right = offsets.get(tensor.name.partition("/cut")[0]) if "/cut" in tensor.name else None
        if right is not None:
            name = tensor.name
            tensor.CopyFrom(right)
            tensor.name = name
    for node in wrong.node:
        if node.op_type == "Slice" and shared.stage.folded.issuperset(node.input[:1]):
            first, behind = (int(name.rpartition("/")[2]) for name in node.input[1:3])
            for k, bound in ((1, 0), (2, behind - first)):
                node.input[k] = f"wrong/{bound}"
                if all(tensor.name != node.input[k] for tensor in wrong.initializer):
                    wrong.initializer.append(numpy_helper.from_array(np.array([bound]), node.input[k]))
