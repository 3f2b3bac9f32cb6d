"""Windows that only a mask tells of are found, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper
from rewriting import renamed, shuffled, undocumented

from disaggc.cost import Bill, Formats
from disaggc.frontends import open_model, read_graph
from disaggc.ir import Graph, Point
from disaggc.passes import load_pipeline, run
from disaggc.placement.pieces import fold

GEMMA = "gemma3.dynamo.op18"
WINDOW = 64


def _with_a_global_layer(model: onnx.ModelProto, layer: int) -> onnx.ModelProto:
    """The same model with one layer whose mask is causal alone, as Gemma 3 has one in six."""
    nodes = list(model.graph.node)
    (last,) = [n for n in nodes if n.op_type == "Where" and "val_223" in n.output]
    (expand,) = [n for n in nodes if last.input[0] in n.output]
    (joined,) = [n for n in nodes if expand.input[0] in n.output]
    (causal,) = [n for n in nodes if n.op_type == "LessOrEqual" and n.output[0] in joined.input]
    reader = [n for n in nodes if last.output[0] in n.input][layer]
    del model.graph.node[:]
    for node in nodes:
        if node is reader:
            seen = [causal.output[0], *expand.input[1:]]
            model.graph.node.append(helper.make_node("Expand", seen, ["all/expand"]))
            model.graph.node.append(helper.make_node("Where", ["all/expand", *last.input[1:]], ["all/mask"]))
            node.input[:] = ["all/mask" if n == last.output[0] else n for n in node.input]
        model.graph.node.append(node)
    return model


def _windows(graph: Graph) -> list[int | None]:
    return [state.window for state in graph.states]


def test_a_window_in_the_mask_bounds_what_the_cache_is_read_for(analysed: Callable[[str], Graph]) -> None:
    graph = analysed(GEMMA)
    assert _windows(graph) == [WINDOW] * 8
    near, far = (
        float(Bill.of(graph.costs, 32, 32).amounts(Point(1.0, 1, cached), Formats()).state_read_bytes)
        for cached in (WINDOW, 100 * WINDOW)
    )
    assert near == far > 0


def test_layers_that_look_back_unequally_far_are_of_unlike_classes(skeleton: Callable[[str], Path]) -> None:
    path = skeleton(GEMMA)
    graph = run(read_graph(path, _with_a_global_layer(open_model(path), 2)), load_pipeline())
    assert _windows(graph) == [WINDOW] * 4 + [None] * 2 + [WINDOW] * 2
    assert [layer.layer_class for layer in graph.layers] == [0, 0, 1, 0]
    cores = [(p.count, str(p.work.bill.state_read)) for p in fold(graph).pieces if p.has_state]
    assert [count for count, _ in cores] == [3, 1]
    assert len({read for _, read in cores}) == 2


def test_names_order_and_metadata_hide_no_window(skeleton: Callable[[str], Path]) -> None:
    path = skeleton(GEMMA)
    model = _with_a_global_layer(open_model(path), 1)
    other, _ = shuffled(undocumented(renamed(model, 3)), 3)
    graphs = [run(read_graph(path, form), load_pipeline()) for form in (model, other)]
    assert sorted(map(str, _windows(graphs[0]))) == sorted(map(str, _windows(graphs[1])))
    assert fold(graphs[0]) == fold(graphs[1])


@pytest.mark.parametrize("name", ["llama.dynamo.op18", "qwen3_moe.batched_mm.dynamo.op23", "mobius.llama"])
def test_a_causal_mask_is_no_window(name: str, analysed: Callable[[str], Graph]) -> None:
    assert set(_windows(analysed(name))) == {None}


@pytest.mark.parametrize(
    ("op", "first", "second", "window"),
    [
        ("Greater", "key", "query - 64", 64),
        ("GreaterOrEqual", "key", "query - 63", 64),
        ("Less", "query - 64", "key", 64),
        ("LessOrEqual", "query - 63", "key", 64),
        ("Less", "query - key", "64", 64),
        ("Greater", "64", "query - key", 64),
        ("LessOrEqual", "key", "query", None),
        ("Less", "key", "query - 64", None),
        ("Greater", "query", "key - 64", None),
    ],
)
def test_every_way_to_write_the_comparison_is_understood(
    op: str, first: str, second: str, window: int | None
) -> None:
    from disaggc.ir import Node
    from disaggc.passes.find_windows import Position, _compared

    spelled = {
        "key": Position(keys=1),
        "query": Position(queries=1),
        "query - 64": Position(queries=1, constant=-64),
        "query - 63": Position(queries=1, constant=-63),
        "key - 64": Position(keys=1, constant=-64),
        "query - key": Position(keys=-1, queries=1),
        "64": Position(constant=64),
    }
    assert _compared(Node("n", op, "", (first, second), ("m",)), spelled) == window
