import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from disaggc.errors import GraphError
from disaggc.ir import (
    Cost,
    DType,
    Graph,
    Mark,
    Node,
    Role,
    Segment,
    State,
    Value,
    Weight,
    print_graph,
    verify,
)


def _graph() -> Graph:
    nodes = (
        Node("first", "MatMul", "", ("x", "w"), ("h",)),
        Node("second", "MoE", "com.microsoft", ("h", "", "w"), ("y", "")),
    )
    values = {n: Value(n, DType.FLOAT, ("batch", 4)) for n in "xhy"}
    return Graph(
        "toy",
        Path("toy.onnx"),
        nodes,
        MappingProxyType(values),
        MappingProxyType({"w": Weight("w", DType.FLOAT, (4, 4))}),
        ("x",),
        ("y",),
        MappingProxyType({"ai.onnx": 23}),
    )


def _segment(*nodes: int) -> Segment:
    return Segment(0, Role.GENERAL, None, None, 0, nodes)


MARK = Mark(Role.GENERAL, None, None, "test")


def test_a_sound_graph_passes() -> None:
    verify(_graph())
    verify(dataclasses.replace(_graph(), marks=(MARK, MARK), segments=(_segment(1, 0),)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda g: {"nodes": g.nodes[::-1]},
            "Node 'second' (com.microsoft::MoE) reads 'h', which nothing before",
        ),
        (lambda _: {"inputs": ()}, "Node 'first' (MatMul) reads 'x', which nothing before it writes."),
        (lambda g: {"nodes": (*g.nodes, g.nodes[0])}, "Node 'first' (MatMul) writes 'h' a second time."),
        (lambda _: {"inputs": ("x", "h")}, "Node 'first' (MatMul) writes 'h' a second time."),
        (lambda _: {"outputs": ("y", "z")}, "Graph output 'z' is written by no node."),
        (lambda _: {"marks": (MARK,)}, "1 marks for 2 nodes of 'toy'."),
        (lambda _: {"costs": (Cost(),) * 3}, "3 costs for 2 nodes of 'toy'."),
        (lambda _: {"segments": (_segment(0),)}, "Segments of 'toy' do not hold every node exactly once."),
        (lambda _: {"segments": (_segment(0, 1, 1),)}, "do not hold every node exactly once."),
        (
            lambda _: {"states": (State("x", "h", 1, False, 1, 4, DType.FLOAT),)},
            "State 'x' -> 'h' is no graph input and output.",
        ),
    ],
)
def test_a_graph_that_contradicts_itself_is_refused(
    change: Callable[[Graph], dict[str, object]], words: str
) -> None:
    with pytest.raises(GraphError) as refusal:
        verify(dataclasses.replace(_graph(), **change(_graph())))  # type: ignore[arg-type]  # fields of Graph
    assert words in str(refusal.value)


def test_absent_operands_are_neither_read_nor_written() -> None:
    node = _graph().nodes[1]
    assert (node.reads, node.writes, node.kind) == (("h", "w"), ("y",), "com.microsoft::MoE")
    body = Node("if", "If", "", ("c",), ("z",), captures=("x",))
    assert (body.reads, body.kind) == (("c", "x"), "If")


def test_producers_and_consumers_are_each_others_inverse() -> None:
    graph = _graph()
    assert graph.producers() == {"h": 0, "y": 1}
    assert graph.consumers() == {"x": [0], "w": [0, 1], "h": [1]}


@pytest.mark.parametrize(
    ("dtype", "nbytes"), [("FLOAT", 60), ("BFLOAT16", 30), ("INT4", 8), ("FLOAT6E3M2", 12)]
)
def test_a_weights_size_packs_small_elements(dtype: str, nbytes: int) -> None:
    assert Weight("w", DType[dtype], (3, 5)).nbytes == nbytes


def test_data_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _graph().nodes[0].name = "other"  # type: ignore[misc]  # that is the point


def test_print_shows_each_node_with_what_is_known_of_it() -> None:
    graph = dataclasses.replace(
        _graph(),
        marks=(dataclasses.replace(MARK, role=Role.FFN, layer=3), MARK),
        costs=(Cost("gemm"), Cost("moe")),
    )
    assert print_graph(graph).splitlines() == [
        "graph toy",
        "  input  x: float32[batch, 4]",
        "  h: float32[batch, 4] = MatMul(x, w)  # ffn L3; gemm",
        "  y: float32[batch, 4] = com.microsoft::MoE(h, , w)  # general; moe",
        "  output y: float32[batch, 4]",
    ]


def test_the_same_graph_prints_the_same(analysed: Callable[[str], Graph]) -> None:
    graph = analysed("llama.dynamo.op23")
    text = print_graph(graph)
    assert text == print_graph(graph)
    assert text.count("\n") == 1 + len(graph.inputs) + len(graph.states) + len(graph.nodes) + len(
        graph.outputs
    )
