"""What can't be cut says why; what must not become a partial sum does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import NodeProto

from disaggc.backends.sharding import Degree, parse_degrees
from disaggc.errors import JobError

from .networks import (
    fused_experts,
    gated,
    looked_up_experts,
    packed_weights,
    quantised_experts,
    two_layers,
    written_out_experts,
)
from .shards import HIDDEN, WIDTH, Network, cut, drawn, gap, op

FAULTS: tuple[tuple[Callable[[], Network], str, str], ...] = (
    (gated, "tp3", "inner dimension of MatMul 'y' is 32, which 3 does not divide (2, 4, 8, 16, 32 would)"),
    (
        lambda: packed_weights(False, False),
        "tp3",
        "is 8 blocks of 16, which 3 does not divide (2, 4, 8 would)",
    ),
    (lambda: packed_weights(True, True), "tp8", "its zero points are packed across the cut"),
    (lambda: fused_experts(True), "ep3", "MoE 'm' has 8 experts, which 3 does not divide (2, 4, 8 would)"),
    (lambda: fused_experts(True), "tp5", "experts of MoE 'm' are 32 wide, which 5 does not divide"),
    (quantised_experts, "tp2", "is quantised: its experts can be shared out (ep), but not cut"),
    (
        lambda: quantised_experts(False),
        "ep2",
        "leaves its routing weights as they are, which kernels of",
    ),
    (written_out_experts, "ep16", "a layer has 8 experts, which 16 does not divide (2, 4, 8 would)"),
    (looked_up_experts, "ep5", "a layer has 8 experts, which 5 does not divide"),
)


@pytest.mark.parametrize(("network", "degree", "reason"), FAULTS)
def test_what_does_not_divide_is_named_with_what_would(
    network: Callable[[], Network], degree: str, reason: str, tmp_path: Path
) -> None:
    faults = cut(network(), tmp_path, degree).scheme.faults
    assert len(faults) == 1
    assert reason in faults[0]


def lone_product() -> Network:
    """A network whose only product has no columns before it."""
    return Network((op("Relu", "x", "a"), op("MatMul", "a w", "y")), {"w": drawn(1, HIDDEN, HIDDEN)})


def computed_weights() -> Network:
    """A product of two activations: nothing of it is anybody's weight."""
    return Network(
        (
            op("MatMul", "x w", "a", "experts"),
            op("Transpose", "x", "t", "experts"),
            op("MatMul", "t a", "y", "experts"),
        ),
        {"w": drawn(1, HIDDEN, WIDTH)},
        dim=HIDDEN,
    )


def test_a_product_without_columns_before_it_stays_whole(tmp_path: Path) -> None:
    found = cut(lone_product(), tmp_path, "tp2").scheme
    assert not found.seeds
    assert "'y' is followed by none that takes its columns apart" in found.faults[0]


def test_experts_of_an_unknown_form_are_refused(tmp_path: Path) -> None:
    found = cut(computed_weights(), tmp_path, "ep2").scheme
    assert not found.seeds
    assert "neither one op, nor a sum with a term for each, nor looked up by one index" in found.faults[0]


def test_a_dense_network_that_does_not_divide_stays_whole_beside_shared_experts(tmp_path: Path) -> None:
    network = written_out_experts()
    network.weights.update(wu=drawn(90, HIDDEN, 9), wd=drawn(91, 9, HIDDEN))
    shared = cut(network, tmp_path, "ep4")
    assert not shared.scheme.faults
    assert {seed.rule for seed in shared.scheme.seeds.values()} == {"expert term"}
    assert gap(network, shared, tmp_path) < 1e-5


def test_an_output_of_the_model_is_never_a_partial_sum(tmp_path: Path) -> None:
    network = two_layers()
    shared = cut(network, tmp_path, "tp2", kept=["y"])
    assert "y" not in shared.scheme.partial
    assert {value.name for value in shared.turns[-1].model.graph.output} == {"y"}
    assert gap(network, shared, tmp_path) < 1e-5


def _reading(node: NodeProto, old: str, new: str) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(new if name == old else name for name in node.input)
    return copy


def test_no_shard_but_the_owner_reads_what_is_kept_from_step_to_step(tmp_path: Path) -> None:
    nodes = (op("Shape", "past", "n", "auxiliary"), op("Reshape", "x n", "r"), *gated().nodes)
    moved = tuple((role, _reading(node, "x", "r") if i > 1 else node) for i, (role, node) in enumerate(nodes))
    network = Network(moved, gated().weights, inputs=("x", "past"))
    shared = cut(network, tmp_path, "tp2", states=["past"])
    readers = {t.shard for t in shared.turns if "past" in {v.name for v in t.model.graph.input}}
    assert readers == {0}
    assert gap(network, shared, tmp_path) < 1e-5


def test_two_cuts_of_one_network_are_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        (folder := tmp_path / name).mkdir()
        turns = cut(looked_up_experts(), folder, "ep2").turns
        made.append([turn.model.SerializeToString(deterministic=True) for turn in turns])
    assert made[0] == made[1]


def test_degrees_are_pools_with_a_kind_and_a_number() -> None:
    assert parse_degrees(["a=ep2", "b=c=tp16"]) == {"a": Degree("ep", 2), "b=c": Degree("tp", 16)}


@pytest.mark.parametrize("text", ["ep2", "a=2", "a=pp2", "a=ep", "=tp2", "a=tp-2"])
def test_a_degree_that_is_none_says_how_one_is_written(text: str) -> None:
    with pytest.raises(JobError, match=r"write the pool's name, tp or ep, and a number: POOL=ep2"):
        parse_degrees([text])


def test_a_pool_has_one_degree() -> None:
    with pytest.raises(JobError, match=r"names pool 'a' twice"):
        parse_degrees(["a=tp2", "a=ep2"])
