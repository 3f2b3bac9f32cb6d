import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from disaggc.backends.onnxruntime import Part, value_types, write_subgraphs
from disaggc.errors import GraphError

from .toys import FLOAT, WIDE, chain, cut, model, run_parts, run_whole, weight

X = np.linspace(-1, 1, 1024, dtype=np.float32).reshape(WIDE)
HALVES = [[0, 1], [2, 3]]


def external(path: Path) -> dict[str, dict[str, str]]:
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {t.name: {e.key: e.value for e in t.external_data} for t in tensors if t.external_data}


def test_an_embedded_weight_is_referenced_in_the_model_file_by_every_part(tmp_path: Path) -> None:
    cut(chain(), tmp_path, HALVES)
    for i in range(2):
        place = external(tmp_path / f"subgraphs/{i}.onnx")["w"]
        assert place["location"] == "toy.onnx"
        assert place["length"] == "4096"
        assert (tmp_path / f"subgraphs/{i}.onnx").stat().st_size < 400


def test_an_external_weight_keeps_its_place_and_its_file_need_not_exist(tmp_path: Path) -> None:
    source = chain()
    tensor = source.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "far.bin"), ("offset", "8192"), ("length", "4096")):
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "toy.onnx"
    path.write_bytes(source.SerializeToString())
    write_subgraphs(source, path, [Part("subgraphs/0.onnx", (0, 1, 2, 3), ("x",), ("y",))], tmp_path)
    assert external(tmp_path / "subgraphs/0.onnx")["w"] == {
        "location": "far.bin",
        "offset": "8192",
        "length": "4096",
    }


def test_tiny_tensors_and_shapes_are_copied(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([32, 32]), "shape")
    bias = numpy_helper.from_array(np.ones(32, np.float32), "bias")
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["y"]),
    ]
    source = model(nodes, [shape, bias])
    parts = cut(source, tmp_path, [[0], [1]])
    assert external(tmp_path / "subgraphs/0.onnx") == external(tmp_path / "subgraphs/1.onnx") == {}
    np.testing.assert_array_equal(run_parts(tmp_path, parts, {"x": X})["y"], run_whole(source, {"x": X})[0])


def test_the_table_of_weights_says_what_the_subgraphs_say(tmp_path: Path) -> None:
    cut(chain(), tmp_path, HALVES)
    table = json.loads((tmp_path / "subgraphs/weights.json").read_text())
    place = external(tmp_path / "subgraphs/1.onnx")["w"]
    assert table["format"] == "disaggc.weights"
    assert table["parts"]["subgraphs/1.onnx"]["w"] == {
        "file": "toy.onnx",
        "offset": int(place["offset"]),
        "length": 4096,
        "dtype": "float32",
        "shape": [32, 32],
    }


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        cut(chain(), folder, HALVES)
    for name in ("0.onnx", "1.onnx", "weights.json"):
        a, b = (folder / "subgraphs" / name for folder in folders)
        assert a.read_bytes() == b.read_bytes()


def test_what_an_exporter_noted_on_nodes_stays_behind(tmp_path: Path) -> None:
    cut(chain(), tmp_path, HALVES)
    assert b"someone" not in (tmp_path / "subgraphs/0.onnx").read_bytes()


def test_parts_pass_the_checker_beside_the_weights(tmp_path: Path) -> None:
    parts = cut(chain(), tmp_path, HALVES)
    for part in parts:
        beside = tmp_path / Path(part.path).name
        beside.write_bytes((tmp_path / part.path).read_bytes())
        onnx.checker.check_model(beside, full_check=True)


def test_functions_travel_with_the_nodes_that_call_them(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("toy", 1)]
    inner = helper.make_function(
        "toy", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets
    )
    call = helper.make_node("Twice", ["p"], ["q"], domain="toy")
    outer = helper.make_function(
        "toy", "TwiceTwice", ["p"], ["r"], [call, helper.make_node("Relu", ["q"], ["r"])], opsets
    )
    nodes = [
        helper.make_node("TwiceTwice", ["x"], ["a"], domain="toy"),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    source = model(nodes, [weight()], functions=[inner, outer])
    parts = cut(source, tmp_path, [[0], [1]])
    first, second = (onnx.load(tmp_path / part.path, load_external_data=False) for part in parts)
    assert {f.name for f in first.functions} == {"Twice", "TwiceTwice"}
    assert not second.functions
    np.testing.assert_array_equal(run_parts(tmp_path, parts, {"x": X})["y"], run_whole(source, {"x": X})[0])


def test_a_value_that_nobody_declares_gets_its_type_by_inference(tmp_path: Path) -> None:
    cut(chain(), tmp_path, HALVES)
    crossing = onnx.load(tmp_path / "subgraphs/1.onnx", load_external_data=False).graph.input[0]
    assert crossing.name == "b"
    assert crossing.type.tensor_type.elem_type == FLOAT


def test_what_the_caller_knows_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    onnx.save(chain(), path)
    known = {"b": helper.make_tensor_type_proto(FLOAT, ["batch", 32])}
    part = Part("subgraphs/0.onnx", (0, 1), ("x",), ("b",))
    write_subgraphs(onnx.load(path), path, [part], tmp_path, known)
    written = onnx.load(tmp_path / part.path, load_external_data=False).graph.output[0]
    assert written.type == known["b"]


def test_a_value_of_unknown_type_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["a"], domain="toy"), helper.make_node("Relu", ["a"], ["y"])]
    with pytest.raises(GraphError, match="Nothing declares the element type of 'a', which crosses"):
        cut(model(nodes), tmp_path, [[0], [1]])


def test_value_types_are_those_declared() -> None:
    types = value_types(chain())
    assert set(types) == {"x", "y"}
