"""Graphs of another kind than decoders are read, and priced op by op, with every doubt named."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import InferenceSession  # type: ignore[attr-defined]  # no __all__ there
from skeletons import HUGE, MODELS, SKELETONS

from disaggc import cli
from disaggc.cost import Bill, Formats
from disaggc.frontends import open_model, read_graph
from disaggc.ir import Graph, Point, Role
from disaggc.passes import load_pipeline, run

OTHERS = {path.name.removesuffix(".onnx.xz"): path for path in sorted((MODELS / "others").glob("*.xz"))}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("others")
    for name, packed in OTHERS.items():
        (folder / f"{name}.onnx").write_bytes(lzma.decompress(packed.read_bytes()))
    return {name: folder / f"{name}.onnx" for name in OTHERS}


def _analysed(path: Path) -> Graph:
    return run(read_graph(path), load_pipeline())


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_inspected(name: str, other: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(other[name])]) == 0
    printed = capsys.readouterr()
    assert "parameters" in printed.out
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("name", OTHERS)
def test_every_weight_is_counted_wherever_it_stands(name: str, other: dict[str, Path]) -> None:
    """Initializers, Constant nodes, and both in bodies: what a server would have to hold."""
    graph = _analysed(other[name])
    counted = sum(w.elements for w in graph.weights.values() if w.integers is None and w.dtype.is_float)
    assert counted == pytest.approx(_floats(other[name]), rel=1e-3)


def _floats(path: Path) -> int:
    """Elements of float tensors anywhere in the protobuf."""
    found, todo = 0, [open_model(path).graph]
    while todo:
        graph = todo.pop()
        tensors = [*graph.initializer, *(a.t for n in graph.node for a in n.attribute if a.HasField("t"))]
        found += sum(int(np.prod(t.dims)) for t in tensors if t.data_type in (1, 10, 11, 16))
        todo += [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
    return found


@pytest.mark.parametrize("name", OTHERS)
def test_a_value_without_rank_or_type_is_named(name: str, other: dict[str, Path]) -> None:
    graph = _analysed(other[name])
    written = [name for node in graph.nodes for name in node.writes if name not in graph.weights]
    unknown = [n for n in written if graph.values[n].dtype is None or graph.values[n].shape is None]
    assert all(f"'{name}'" in " ".join(graph.warnings) for name in unknown[:3])


def test_a_branch_costs_what_it_computes(other: dict[str, Path]) -> None:
    """silero_vad is a network for 8 kHz and one for 16 kHz in one If: one of them runs, with its weights."""
    point = Point(1.0, 512, 0)
    graph = _analysed(other["silero_vad_op18_ifless"])
    bill = Bill.of(graph.costs, 32, 32).amounts(point, Formats())
    assert float(bill.weight_bytes) == pytest.approx(4 * 235_651, rel=1e-3)
    assert float(bill.flops) > 1e5


def test_without_layers_nothing_is_called_an_embedding(other: dict[str, Path]) -> None:
    for path in other.values():
        graph = _analysed(path)
        if not graph.layers:
            assert {mark.role for mark in graph.marks} == {Role.GENERAL}


def test_recurrent_state_grows_by_no_token(other: dict[str, Path]) -> None:
    (state,) = _analysed(other["silero_vad_op18_ifless"]).states
    assert (state.past, state.present, state.axis) == ("state", "stateN", None)


def test_they_still_run(other: dict[str, Path]) -> None:
    """The zeros are in the place of weights: onnxruntime takes the files."""
    for path in other.values():
        assert InferenceSession(str(path)).get_outputs()


@pytest.mark.parametrize("name", [name for name in SKELETONS if name != HUGE])
def test_every_value_that_a_decoder_reads_has_rank_and_type(
    name: str, analysed: Callable[[str], Graph]
) -> None:
    """What nothing reads (the mean that a fused norm could give) is named, if nothing types it."""
    graph = analysed(name)
    read = {n for node in graph.nodes for n in node.reads}.union(graph.outputs)
    values = [graph.values[n] for node in graph.nodes for n in node.writes if n not in graph.weights]
    unknown = [v.name for v in values if v.dtype is None or v.shape is None]
    assert read.isdisjoint(unknown)
    assert not unknown or any(f"nothing reads them: '{unknown[0]}'" in text for text in graph.warnings)
