"""Only activations cross a cut: extents are read off what a part is sent anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime import InferenceSession  # type: ignore[attr-defined]  # no __all__ there
from skeletons import HUGE, SKELETONS

from disaggc.backends.cutting import cut
from disaggc.backends.onnxruntime import Made
from disaggc.backends.onnxruntime.making import making
from disaggc.frontends import open_model
from disaggc.ir import Graph, Phase, Role
from disaggc.passes.contents import contents
from disaggc.placement.pieces import fold
from disaggc.placement.search import Answer
from disaggc.placement.stages import lay_out

SIDES = {
    "feed-forward": {Role.FFN, Role.EXPERTS, Role.SHARED_EXPERT, Role.ROUTER},
    "core attention": {Role.CORE_ATTENTION},
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [name for name in SKELETONS if name != HUGE])
def test_only_activations_cross(
    name: str, side: str, skeleton: Callable[[str], Path], analysed: Callable[[str], Graph]
) -> None:
    graph = analysed(name)
    crossing = [graph.values[value] for value in _crossing(graph, open_model(skeleton(name)), SIDES[side])]
    assert crossing
    assert [v for v in crossing if v.dtype is None or not v.dtype.is_float or not v.shape] == []


def _crossing(graph: Graph, source: onnx.ModelProto, side: set[Role]) -> Iterator[str]:
    """What goes from place to place if all pieces of ``side`` are on one and the rest on another."""
    pieces = fold(graph)
    apart = tuple(int(piece.role in side) for piece in pieces.pieces) * 2
    spans = lay_out(graph, pieces, cast(Answer, SimpleNamespace(assignment=apart)), Phase.DECODE)
    parts = cut(source, graph, spans, [str(i) for i in range(len(spans))], contents(graph))
    place_of = {name: span.place for span, part in zip(spans, parts, strict=True) for name in part.outputs}
    for span, part in zip(spans, parts, strict=True):
        yield from (name for name in part.inputs if place_of.get(name, span.place) != span.place)


@pytest.mark.parametrize(("scalar", "elements"), [(False, (("x", 0), -1, ("x", 1))), (True, (("x", 1),))])
def test_extents_are_made_from_an_activation(scalar: bool, elements: tuple[Any, ...]) -> None:
    nodes = making(Made("made", scalar, elements))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])
    y = helper.make_tensor_value_info("made", TensorProto.INT64, None)
    graph = helper.make_graph(nodes, "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (found,) = InferenceSession(model.SerializeToString()).run(None, {"x": np.zeros((3, 5), np.float32)})
    shape = [3, -1, 5] if len(elements) == 3 else 5
    np.testing.assert_array_equal(cast(Any, found), shape)
