from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from rewriting import renamed, shuffled, undocumented
from skeletons import HUGE, SKELETONS, SMALL

from disaggc.frontends import open_model, read_graph
from disaggc.ir import Graph, Role, Routing
from disaggc.passes import load_pipeline, run

Analysed = Callable[[str], Graph]
Skeleton = Callable[[str], Path]

LAYERS = {"full.llama3_70b.torch": 80, "full.mixtral_8x22b.torch": 56} | dict.fromkeys(
    ("full.qwen3_235b.mobius", "full.qwen3_235b.moe_op"), 94
)
ROUTING = {
    "full.qwen3_235b.mobius": Routing(128, 8),
    "full.qwen3_235b.moe_op": Routing(128, 8),
    "full.mixtral_8x22b.torch": Routing(8, 2),
} | {
    name: Routing(8, 2)
    for name in SMALL
    if any(word in name for word in ("qwen3_moe", "gpt_oss", "deepseek"))
}
BUT_HUGE = tuple(name for name in SKELETONS if name != HUGE)
FFN = {Role.FFN, Role.ROUTER, Role.EXPERTS, Role.SHARED_EXPERT}


def _roles(graph: Graph, layer: int | None) -> set[Role]:
    return {mark.role for mark in graph.marks if mark.layer == layer}


def _answers(graph: Graph) -> list[tuple[object, ...]]:
    return [(m.role, m.layer, m.block, m.routing, m.all_tokens) for m in graph.marks]


def _analyse(path: Path, model: onnx.ModelProto) -> Graph:
    return run(read_graph(path, model), load_pipeline())


@pytest.mark.parametrize("name", SKELETONS)
def test_every_layer_is_found_and_has_one_block_with_core_attention(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    assert len(graph.layers) == LAYERS.get(name, 4)
    cores = {(m.layer, m.block) for m in graph.marks if m.role is Role.CORE_ATTENTION}
    assert sorted(layer for layer, _ in cores if layer is not None) == list(range(len(graph.layers)))


@pytest.mark.parametrize("name", SKELETONS)
def test_every_layer_projects_into_and_out_of_its_attention(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    for layer in graph.layers:
        assert _roles(graph, layer.index) >= {Role.QKV, Role.CORE_ATTENTION, Role.OUT_PROJECTION}


@pytest.mark.parametrize("name", [n for n in SKELETONS if n not in ROUTING])
def test_dense_models_have_an_ffn_in_every_layer_and_no_router(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    for layer in graph.layers:
        assert _roles(graph, layer.index) & FFN == {Role.FFN}


@pytest.mark.parametrize("name", [n for n in ROUTING if "deepseek" not in n])
def test_mixtures_have_a_router_and_experts_in_every_layer(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    for layer in graph.layers:
        assert _roles(graph, layer.index) & FFN == {Role.ROUTER, Role.EXPERTS}


def test_deepseek_has_a_dense_layer_and_then_shared_experts(analysed: Analysed) -> None:
    graph = analysed("deepseek_v3.batched_mm.dynamo.op23")
    mixture = {Role.ROUTER, Role.EXPERTS, Role.SHARED_EXPERT}
    assert [_roles(graph, i) & FFN for i in range(4)] == [{Role.FFN}, mixture, mixture, mixture]


@pytest.mark.parametrize("name", ROUTING)
def test_routing_is_read_off_the_graph(name: str, analysed: Analysed) -> None:
    found = {mark.routing for mark in analysed(name).marks if mark.role is Role.EXPERTS}
    assert found - {None} == {ROUTING[name]}


@pytest.mark.parametrize("name", ["mobius.qwen3_moe", HUGE])
def test_unrolled_experts_are_known_to_be_computed_for_all_tokens(name: str, analysed: Analysed) -> None:
    marks = [mark for mark in analysed(name).marks if mark.routing is not None]
    assert marks
    assert all(mark.all_tokens for mark in marks)


@pytest.mark.parametrize("name", [n for n in ROUTING if "mobius" not in n])
def test_other_mixtures_compute_the_chosen_experts_alone(name: str, analysed: Analysed) -> None:
    assert not any(mark.all_tokens for mark in analysed(name).marks)


@pytest.mark.parametrize("name", SKELETONS)
def test_embedding_head_and_final_norm_lie_outside_layers(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    assert _roles(graph, None) >= {Role.EMBEDDING, Role.HEAD}
    everywhere = {m.layer for m in graph.marks if m.role in (Role.EMBEDDING, Role.HEAD)}
    assert everywhere == {None}


@pytest.mark.parametrize("name", SKELETONS)
def test_the_head_is_the_product_that_makes_the_logits(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    assert graph.workload is not None
    products = [
        node
        for node, mark in zip(graph.nodes, graph.marks, strict=True)
        if mark.role is Role.HEAD and node.op in ("MatMul", "Gemm", "MatMulNBits")
    ]
    assert len(products) == 1
    vocabulary = (graph.values[graph.workload.logits].shape or ())[-1]
    assert vocabulary == (graph.values[products[0].outputs[0]].shape or ())[-1]


@pytest.mark.parametrize("name", SKELETONS)
def test_every_node_has_a_role_with_evidence(name: str, analysed: Analysed) -> None:
    for mark in analysed(name).marks:
        assert mark.role is not Role.GENERAL
        assert mark.evidence not in ("", "no role found yet")


@pytest.mark.parametrize("name", SKELETONS)
def test_every_weight_matrix_is_read_in_a_role_that_has_weights(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    idle = {Role.AUXILIARY, Role.GENERAL}
    for node, mark in zip(graph.nodes, graph.marks, strict=True):
        large = [n for n in node.inputs if n in graph.weights and graph.weights[n].elements >= 4096]
        rotations = node.op in ("Gather", "Slice")  # cos and sin tables are auxiliary
        assert not large or mark.role not in idle or rotations, node.name


@pytest.mark.parametrize("name", BUT_HUGE)
def test_layers_of_one_kind_are_one_class_but_for_first_and_last(name: str, analysed: Analysed) -> None:
    middle = [layer.layer_class for layer in analysed(name).layers[1:-1]]
    alternating = name == "genai.gpt_oss.fp32"  # windowed and full attention take turns
    assert len(set(middle)) == (2 if alternating else 1)


@pytest.mark.parametrize("name", SKELETONS)
def test_random_names_change_no_role(name: str, skeleton: Skeleton, analysed: Analysed) -> None:
    path = skeleton(name)
    other = _analyse(path, renamed(open_model(path), seed=1))
    assert _answers(other) == _answers(analysed(name))
    assert {node.name for node in other.nodes}.isdisjoint(node.name for node in analysed(name).nodes)
    assert [layer.layer_class for layer in other.layers] == [x.layer_class for x in analysed(name).layers]


@pytest.mark.parametrize("name", BUT_HUGE)
def test_absent_metadata_changes_no_role(name: str, skeleton: Skeleton, analysed: Analysed) -> None:
    path = skeleton(name)
    other = undocumented(open_model(path))
    assert not any(node.metadata_props for node in other.graph.node)
    assert _answers(_analyse(path, other)) == _answers(analysed(name))


@pytest.mark.parametrize("name", BUT_HUGE)
@pytest.mark.parametrize("seed", [1, 2])
def test_another_order_of_nodes_changes_no_role(
    name: str, seed: int, skeleton: Skeleton, analysed: Analysed
) -> None:
    path = skeleton(name)
    model, order = shuffled(open_model(path), seed)
    assert order != sorted(order)
    other = _analyse(path, model)
    known = analysed(name)
    differing = [
        (known.nodes[old].name, known.marks[old].role, found.role)
        for old, found in zip(order, other.marks, strict=True)
        if (known.marks[old].role, known.marks[old].layer) != (found.role, found.layer)
    ]
    assert differing == []
    kinds = [
        Counter((n.kind, m.role, m.layer) for n, m in zip(g.nodes, g.marks, strict=True))
        for g in (known, other)
    ]
    assert kinds[0] == kinds[1]
