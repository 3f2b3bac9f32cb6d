"""A product as several of its columns: what each refers to, what they come to, and what stays whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession  # type: ignore[attr-defined]  # no __all__ there

from disaggc.backends.onnxruntime import Blocks, Part, boundary, in_blocks, is_product, write_subgraphs
from disaggc.backends.onnxruntime.blocks import is_block
from disaggc.ir import DType, Value

from .toys import run_parts

INNER, COLUMNS = 32, 200
RESULT = Value("y", DType.FLOAT, ("rows", COLUMNS))
X = np.random.default_rng(7).standard_normal((3, INNER), np.float32)
Array = np.ndarray[Any, Any]


def drawn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def saved(folder: Path, nodes: Sequence[NodeProto], weights: Mapping[str, Array], outputs: str = "y") -> Path:
    """A model whose last node is the product."""
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", INNER])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.split()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "toy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def blocks_of(path: Path, count: int = 3, result: Value | None = RESULT) -> Blocks | str:
    model = onnx.load(path, load_external_data=False)
    return in_blocks(model, path, len(model.graph.node) - 1, result, count)


def run(path: Path, blocks: Blocks | str, count: int = 3) -> None:
    """Each block as a part of its own gives what the model gives."""
    assert isinstance(blocks, Blocks)
    assert len(blocks.made) == len(blocks.values) == count
    own = range(len(onnx.load(path, load_external_data=False).graph.node) - 1)
    front = [tuple(i for i in own if i not in blocks.spare)]
    nodes = [*(front if front[0] else []), *blocks.made]
    parts = [
        Part(f"subgraphs/{i}.onnx", tuple(each), border.inputs, border.outputs)
        for i, (each, border) in enumerate(zip(nodes, boundary(blocks.form, nodes), strict=True))
    ]
    types = {v.name: helper.make_tensor_type_proto(TensorProto.FLOAT, None) for v in blocks.values}
    write_subgraphs(blocks.form, path, parts, path.parent, types)
    found = run_parts(path.parent, parts, {"x": X})["y"]
    (whole,) = InferenceSession(path).run(["y"], {"x": X})
    np.testing.assert_allclose(found, np.asarray(whole), rtol=1e-6, atol=1e-6)


def turned(product: str = "turned") -> list[NodeProto]:
    return [
        helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", product], ["y"], name="project"),
    ]


def gemm(*inputs: str, **attributes: int) -> list[NodeProto]:
    node = helper.make_node("Gemm", ["x", *inputs], ["y"], name="project")
    node.attribute.extend(helper.make_attribute(name, number) for name, number in attributes.items())
    return [node]


def packed(*inputs: str) -> list[NodeProto]:
    node = helper.make_node("MatMulNBits", ["x", *inputs], ["y"], name="project", domain="com.microsoft")
    sizes = {"K": INNER, "N": COLUMNS, "bits": 4, "block_size": 16}
    node.attribute.extend(helper.make_attribute(name, size) for name, size in sizes.items())
    return [node]


def quants() -> dict[str, Array]:
    draw = np.random.default_rng(1)
    return {
        "q": draw.integers(0, 256, (COLUMNS, 2, 8), np.uint8),
        "s": np.abs(drawn(COLUMNS, 2)),
        "z": draw.integers(0, 256, (COLUMNS, 1), np.uint8),
    }


def test_blocks_are_of_whole_vectors_and_the_last_has_the_rest(tmp_path: Path) -> None:
    path = saved(tmp_path, turned(), {"w": drawn(COLUMNS, INNER)})
    blocks = blocks_of(path)
    assert isinstance(blocks, Blocks)
    assert [value.shape for value in blocks.values] == [("rows", 128), ("rows", 72)]
    assert [value.name for value in blocks.values] == ["y/columns[0:128]", "y/columns[128:200]"]
    assert blocks.spare == {0}
    run(path, blocks, 2)


def test_the_last_block_takes_the_place_and_the_name_of_the_product(tmp_path: Path) -> None:
    path = saved(tmp_path, turned(), {"w": drawn(COLUMNS, INNER)})
    model = onnx.load(path, load_external_data=False)
    before = model.SerializeToString(deterministic=True)
    blocks = in_blocks(model, path, 1, RESULT, 2)
    assert isinstance(blocks, Blocks)
    assert model.SerializeToString(deterministic=True) == before, "the model itself is left as it is"
    nodes = blocks.form.graph.node
    assert blocks.made[-1][-2] == 1
    assert (nodes[1].name, nodes[1].op_type) == ("project", "MatMul")
    assert nodes[blocks.made[-1][-1]].op_type == "Concat"
    made = [nodes[i] for each in blocks.made for i in each]
    assert all(is_block(node) for node in made[:-1])
    assert not any(is_block(node) for node in [made[-1], *model.graph.node])
    assert [is_product(node) for node in model.graph.node] == [False, True]


@pytest.mark.parametrize(
    "bias",
    [drawn(COLUMNS), drawn(1, COLUMNS), drawn(1), np.array(0.5, np.float32)],
    ids=lambda b: str(b.shape),
)
def test_a_gemm_has_its_bias_by_columns_or_one_for_all(tmp_path: Path, bias: Array) -> None:
    path = saved(tmp_path, gemm("w", "b", transB=1), {"w": drawn(COLUMNS, INNER), "b": bias})
    run(path, blocks_of(path, 4), 4)


def test_two_transposes_and_transb_are_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0]),
        *gemm("b", transB=1),
    ]
    path = saved(tmp_path, nodes, {"w": drawn(COLUMNS, INNER)})
    run(path, blocks_of(path, 2), 2)


@pytest.mark.parametrize("given", ["q s", "q s z"])
@pytest.mark.parametrize("flat", [False, True], ids=["rows", "flat"])
def test_packed_weights_are_cut_with_their_scales_and_zero_points(
    tmp_path: Path, given: str, flat: bool
) -> None:
    weights = {name: array for name, array in quants().items() if name in given}
    if flat:
        weights |= {name: weights[name].reshape(-1) for name in weights.keys() - {"q"}}
    path = saved(tmp_path, packed(*given.split()), weights)
    run(path, blocks_of(path, 4), 4)


def test_a_transpose_that_somebody_else_reads_is_kept(tmp_path: Path) -> None:
    nodes = turned()
    nodes.insert(1, helper.make_node("ReduceSum", ["turned"], ["total"]))
    path = saved(tmp_path, nodes, {"w": drawn(COLUMNS, INNER)}, "y total")
    blocks = blocks_of(path)
    assert isinstance(blocks, Blocks)
    assert blocks.spare == frozenset()
    run(path, blocks, 2)


@pytest.mark.parametrize(
    ("nodes", "weights", "why"),
    [
        (turned("w"), {"w": drawn(INNER, COLUMNS)}, "'w' [32, 200] has no column in one run"),
        (gemm("w"), {"w": drawn(INNER, COLUMNS)}, "'w' [32, 200] has no column in one run"),
        (
            gemm("w", "b", transB=1),
            {"w": drawn(COLUMNS, INNER), "b": drawn(3, 1)},
            "'b' [3, 1] has no column",
        ),
        ([helper.make_node("Relu", ["x"], ["r"]), *gemm("r", transB=1)], {}, "'r' is no initializer"),
        (packed("q", "s", "x"), quants(), "input 'x' is no initializer"),
        (turned(), {"w": drawn(40, INNER)}, "it has 40 columns"),
    ],
    ids=["turned", "gemm", "bias", "activation", "zero points", "few"],
)
def test_a_product_whose_columns_cannot_be_referenced_stays_whole(
    tmp_path: Path, nodes: list[NodeProto], weights: dict[str, Array], why: str
) -> None:
    found = blocks_of(saved(tmp_path, nodes, weights))
    assert isinstance(found, str)
    assert why in found


@pytest.mark.parametrize("result", [None, replace(RESULT, dtype=None), replace(RESULT, shape=None)])
def test_a_product_of_unknown_type_stays_whole(tmp_path: Path, result: Value | None) -> None:
    found = blocks_of(saved(tmp_path, turned(), {"w": drawn(COLUMNS, INNER)}), 2, result)
    assert found == "nothing tells the type of 'y'"
