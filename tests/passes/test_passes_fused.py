"""Ops that add to the residual stream and norm the sum: what is found is that of an Add and a norm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jobs import small_job
from made import LIBRARY
from onnx import TensorProto, helper
from onnxruntime import InferenceSession  # type: ignore[attr-defined]  # no __all__ there
from rewriting import unfused

from disaggc.backends.onnxruntime import boundary
from disaggc.frontends import open_model, read_graph
from disaggc.ir import Graph, Role
from disaggc.passes import load_pipeline, run
from disaggc.placement.decide import decide
from disaggc.placement.request import request_of, resolve_tier

FUSED = ("genai.gpt_oss.fp32", "genai.llama.int4", "genai.qwen3.fp32", "mobius.llama", "mobius.qwen3_moe")
"""Models whose norms are fused with the Add before, but for that of the embedding."""

Skeleton = Callable[[str], Path]
Analysed = Callable[[str], Graph]


@pytest.fixture(scope="module")
def apart(skeleton: Skeleton) -> Callable[[str], Graph]:
    """A model with every such op as two, analysed."""
    return lambda name: run(read_graph(skeleton(name), unfused(open_model(skeleton(name)))), load_pipeline())


def test_an_add_and_a_norm_compute_what_the_fused_op_computes() -> None:
    wide, gamma = [2, 3, 8], [8]
    node = helper.make_node(
        "SkipSimplifiedLayerNormalization",
        ["x", "skip", "gamma"],
        ["y", "", "", "sum"],
        domain="com.microsoft",
        epsilon=1e-3,
    )
    shapes = {"x": wide, "skip": wide, "gamma": gamma, "y": wide, "sum": wide}
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", infos[:3], infos[3:])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    draw = np.random.default_rng(1)
    feeds = {name: draw.standard_normal(shapes[name], np.float32) for name in ("x", "skip", "gamma")}
    fused, two = (InferenceSession(m.SerializeToString()).run(None, feeds) for m in (model, unfused(model)))
    for mine, expected in zip(two, fused, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUSED)
def test_segments_are_those_of_an_add_and_a_norm(name: str, analysed: Analysed, apart: Analysed) -> None:
    found, expected = (
        Counter((s.role, s.layer, s.launches) for s in graph.segments)
        for graph in (analysed(name), apart(name))
    )
    assert found == expected
    assert {layer: n for (role, layer, _), n in found.items() if role is Role.NORM and layer is not None} == {
        layer.index: 2 for layer in analysed(name).layers
    }


@pytest.mark.parametrize("name", FUSED)
def test_the_last_norm_is_in_no_layer(name: str, analysed: Analysed) -> None:
    norms = [s for s in analysed(name).segments if s.role is Role.NORM]
    assert norms[-1].layer is None


@pytest.mark.parametrize("name", FUSED)
def test_one_tensor_goes_into_a_feed_forward_network_and_one_comes_out(
    name: str, skeleton: Skeleton, analysed: Analysed
) -> None:
    """The sum stays with attention, so that half as many bytes cross as would with it."""
    graph, model = analysed(name), open_model(skeleton(name))
    networks = {Role.FFN, Role.ROUTER, Role.EXPERTS}
    mine = [i for i, mark in enumerate(graph.marks) if mark.layer == 1 and mark.role in networks]
    before = [i for i, mark in enumerate(graph.marks) if mark.layer in (None, 0, 1) and i < min(mine)]
    after = [i for i in range(len(graph.marks)) if i not in {*mine, *before}]
    border = boundary(model, [before, mine, after])[1]
    assert (len(border.inputs), len(border.outputs)) == (1, 1)


@pytest.mark.parametrize("name", FUSED)
def test_a_plan_hangs_little_on_how_an_exporter_writes_a_join(
    name: str, analysed: Analysed, apart: Analysed
) -> None:
    """A fused op is priced with the sum that it reads and writes, an Add by itself is free: 0.1 % at most."""
    job = small_job("", {"h100-x8": 1, "mi300x-x8": 1}, batch=64, context=2048)
    one, other = (
        decide(request_of(job, resolve_tier(job.tier[0], LIBRARY), graph, LIBRARY))
        for graph in (analysed(name), apart(name))
    )
    assert one.answer.tokens_per_s == pytest.approx(other.answer.tokens_per_s, rel=1e-3)
    assert [o.mode for o in one.options] == [o.mode for o in other.options]
