"""Recurrent and convolution state is state of fixed size, and layers of every kind have their class."""

from __future__ import annotations

from pathlib import Path

import pytest
from hybrid import HEADS, HIDDEN, STATE, TAPS, hybrid
from rewriting import renamed, shuffled, undocumented

from disaggc.cost import Bill, Formats
from disaggc.frontends import read_graph
from disaggc.ir import Graph, Point, Role
from disaggc.passes import load_pipeline, run
from disaggc.placement.pieces import fold


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hybrid") / "hybrid.onnx"
    path.write_bytes(hybrid().SerializeToString())
    return path


@pytest.fixture(scope="module")
def graph(path: Path) -> Graph:
    return run(read_graph(path), load_pipeline())


def test_every_state_is_paired(graph: Graph) -> None:
    pairs = {state.past: state.present for state in graph.states}
    names = ["conv0", "ssm0", "conv1", "ssm1", "k2", "v2", "conv3", "ssm3"]
    assert pairs == {f"{name}.in": f"{name}.out" for name in names}


def test_only_attention_grows_by_token(graph: Graph) -> None:
    grown = {state.past for state in graph.states if state.axis is not None}
    assert grown == {"k2.in", "v2.in"}
    fixed = {s.past: s.heads * s.width for s in graph.states if s.axis is None}
    assert fixed["conv0.in"] == HIDDEN * (TAPS - 1)
    assert fixed["ssm0.in"] == HIDDEN * STATE


def test_layers_of_each_kind_are_a_class(graph: Graph) -> None:
    assert [layer.layer_class for layer in graph.layers] == [0, 0, 1, 0]


def test_fixed_state_is_read_and_written_once_whatever_the_context(graph: Graph) -> None:
    def state_bytes(cached: int, layer: int) -> tuple[float, float]:
        costs = [c for c, m in zip(graph.costs, graph.marks, strict=True) if m.layer == layer]
        amounts = Bill.of(costs, 32, 32).amounts(Point(3.0, 1, cached), Formats())
        return float(amounts.state_read_bytes), float(amounts.state_write_bytes)

    kept = 3 * 4.0 * (HIDDEN * (TAPS - 1) + HIDDEN * STATE)
    assert state_bytes(10, 0) == state_bytes(10_000, 0) == (kept, kept)
    assert state_bytes(999, 2) == (3 * 4.0 * 1000 * 2 * HIDDEN, 3 * 4.0 * 2 * HIDDEN)


def test_what_touches_state_is_core_attention(graph: Graph) -> None:
    pasts = {state.past for state in graph.states}
    roles = {m.role for n, m in zip(graph.nodes, graph.marks, strict=True) if pasts.intersection(n.reads)}
    assert roles == {Role.CORE_ATTENTION}
    assert {m.role for m in graph.marks} >= {Role.QKV, Role.OUT_PROJECTION, Role.FFN, Role.HEAD}


def test_a_plan_keeps_both_kinds(graph: Graph) -> None:
    kept = [(p.count, p.kv_elements, p.fixed_state) for p in fold(graph).pieces if p.has_state]
    assert sorted(kept) == [(1, 2 * HIDDEN, 0), (3, 0, HIDDEN * (TAPS - 1) + HIDDEN * STATE)]
    assert HEADS * (HIDDEN // HEADS) == HIDDEN


def test_names_and_order_hide_nothing(path: Path, graph: Graph) -> None:
    other, _ = shuffled(undocumented(renamed(hybrid(), 2)), 2)
    assert fold(run(read_graph(path, other), load_pipeline())) == fold(graph)
