import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from disaggc.ir import DType, Graph, Node, Value, Weight
from disaggc.passes.flow import articulations, constant_nodes, kept, links, reach, weightlike
from disaggc.passes.vocabulary import load_vocabulary


@st.composite
def _dags(draw: st.DrawFn) -> list[set[int]]:
    """Successors of each of n nodes in topological order, each on a path from the first to the last."""
    n = draw(st.integers(1, 9))
    after = [draw(st.sets(st.integers(i + 1, n - 1), min_size=1)) if i < n - 1 else set() for i in range(n)]
    for j in range(1, n):
        if not any(j in after[i] for i in range(j)):
            after[draw(st.integers(0, j - 1))].add(j)
    return after


@given(_dags())
def test_articulations_are_the_nodes_whose_removal_cuts_first_from_last(after: list[set[int]]) -> None:
    last = len(after) - 1
    cuts = [
        node
        for node in range(len(after))
        if node in (0, last) or last not in reach([0], lambda i, node=node: after[i] - {node})  # type: ignore[misc]  # bound default
    ]
    assert articulations(list(range(len(after))), after.__getitem__) == cuts


@given(_dags(), st.integers(0, 8))
def test_reach_is_every_node_on_some_path(after: list[set[int]], start: int) -> None:
    start %= len(after)
    expected = {start}
    for i in range(len(after)):
        if i in expected:
            expected |= after[i]
    assert reach([start], after.__getitem__) == expected


def _graph(
    *nodes: Node, shapes: dict[str, tuple[int | str, ...]], weights: dict[str, tuple[int, ...]]
) -> Graph:
    return Graph(
        "toy",
        Path("toy.onnx"),
        nodes,
        MappingProxyType({n: Value(n, DType.FLOAT, s) for n, s in shapes.items()}),
        MappingProxyType({n: Weight(n, DType.FLOAT, s) for n, s in weights.items()}),
        ("x",),
        (nodes[-1].outputs[0],),
        MappingProxyType({}),
    )


def _folded() -> Graph:
    return _graph(
        Node("0", "Constant", "", (), ("c",)),
        Node("1", "Mul", "", ("w", "c"), ("scaled",)),
        Node("2", "Shape", "", ("x",), ("extent",)),
        Node("3", "Expand", "", ("w", "extent"), ("wide",)),
        Node("4", "Gather", "", ("stack", "x"), ("picked",)),
        Node("5", "Gather", "", ("w", "x"), ("row",)),
        Node("6", "MatMul", "", ("x", "scaled"), ("y",)),
        shapes={
            "x": ("n",), "c": (), "scaled": (4, 4), "extent": (1,), "wide": ("n", 4, 4),
            "picked": ("n", 4, 4), "row": ("n", 4), "y": ("n",),
        },
        weights={"w": (4, 4), "stack": (8, 4, 4)},
    )  # fmt: skip


def test_what_reads_weights_alone_is_constant() -> None:
    assert constant_nodes(_folded()) == (True, True, False, False, False, False, False)


def test_moved_folded_and_picked_matrices_are_weights_and_rows_of_a_table_are_not() -> None:
    found = weightlike(_folded(), load_vocabulary().ops)
    assert found == {"w", "stack", "c", "scaled", "wide", "picked"}


def test_links_name_makers_and_readers_once() -> None:
    graph = _graph(
        Node("0", "Neg", "", ("x",), ("a",)),
        Node("1", "Mul", "", ("a", "a"), ("y",)),
        shapes=dict.fromkeys("xay", ()),
        weights={},
    )
    assert (links(graph).before, links(graph).after, links(graph).writer) == (
        ((), (0,)),
        ((1,), ()),
        {"a": 0, "y": 1},
    )


def test_a_kept_answer_is_found_again_until_what_it_hangs_on_changes() -> None:
    calls: list[int] = []

    @kept("nodes")
    def count(graph: Graph, by: int) -> int:
        calls.append(by)
        return len(graph.nodes) * by

    graph = _folded()
    assert [count(graph, 2), count(graph, 2), count(dataclasses.replace(graph, name="other"), 2)] == [
        14,
        14,
        14,
    ]
    assert calls == [2]
    assert count(graph, 3) == 21
    assert count(dataclasses.replace(graph, nodes=graph.nodes[:1]), 3) == 3
    assert count(graph, 3) == 21
    assert calls == [2, 3, 3, 3]


def test_passes_do_not_see_each_others_graphs(analysed: Callable[[str], Graph]) -> None:
    one, other = analysed("llama.dynamo.op23"), analysed("mobius.llama")
    assert len(links(one).before) == len(one.nodes)
    assert len(links(other).before) == len(other.nodes)
