import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

from disaggc.errors import DisaggcError, GraphError, ModelError, NotOnnxError, WeightsError
from disaggc.frontends import open_model, read_graph
from disaggc.ir import Role, WeightFile
from disaggc.passes import load_pipeline, run

Skeleton = Callable[[str], Path]


def _save(folder: Path, nodes: list[onnx.NodeProto], weights: tuple[onnx.TensorProto, ...] = ()) -> Path:
    """A model from x to y of float [n, 4]."""
    x, y = (h.make_tensor_value_info(name, T.FLOAT, ["n", 4]) for name in "xy")
    graph = h.make_graph(nodes, "toy", [x], [y], list(weights))
    opsets = [h.make_opsetid("", 21), h.make_opsetid("acme", 1), h.make_opsetid("com.microsoft", 1)]
    path = folder / "model.onnx"
    path.write_bytes(h.make_model(graph, opset_imports=opsets).SerializeToString())
    return path


def _external(name: str, location: str, **entries: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=T.FLOAT, dims=[4, 4], data_location=T.EXTERNAL)
    for key, value in ({"location": location} | entries).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize("text", [b"This is a report.\n" * 40, b"\x00\xff" * 500, b"{}", b"import onnx\n"])
def test_a_file_that_is_no_protobuf_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(text)
    with pytest.raises(NotOnnxError) as refusal:
        open_model(path)
    assert str(refusal.value).startswith(
        f"'{path}' is not an ONNX model, or is truncated ({len(text):,} bytes"
    )


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(
        NotOnnxError, match=r"holds no ONNX graph \(no nodes or no opset\)\. Is it the model file"
    ):
        open_model(path)


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for seed in range(50):
        path.write_bytes(random.Random(seed).randbytes(400))
        with pytest.raises(NotOnnxError, match=r"Export it again|Is it the model file"):
            open_model(path)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["mobius.llama", "qwen3_moe.gqa_moe", "full.mixtral_8x22b.torch"])
def test_a_truncated_model_is_refused(name: str, share: float, skeleton: Skeleton, tmp_path: Path) -> None:
    whole = skeleton(name).read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(NotOnnxError, match=r"is not an ONNX model, or is truncated|holds no ONNX graph"):
        read_graph(path)


@pytest.mark.parametrize("name", ["genai.llama.int4", "mobius.llama.static", "qwen3_moe.gqa_moe"])
def test_a_damaged_model_is_read_or_refused_and_never_a_traceback(
    name: str, skeleton: Skeleton, tmp_path: Path
) -> None:
    whole, rng, path = skeleton(name).read_bytes(), random.Random(7), tmp_path / "model.onnx"
    steps, refused = load_pipeline(), 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 2, 5))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            run(read_graph(path), steps)
        except DisaggcError:
            refused += 1
    assert 0 < refused < 60


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path, [h.make_node("Relu", ["x"], ["y"], name="QQQQ")])
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"Q\xff\xfeQ"))
    with pytest.raises(NotOnnxError, match=r"holds a name that is no UTF-8 text\."):
        open_model(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder\. Name the \.onnx file in it\."):
        open_model(tmp_path)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^No file '.*nowhere\.onnx'\.$"):
        open_model(tmp_path / "nowhere.onnx")


def test_the_suffix_of_a_file_does_not_matter(tmp_path: Path) -> None:
    path = _save(tmp_path, [h.make_node("Relu", ["x"], ["y"])])
    other = path.rename(tmp_path / "model.json")
    assert len(open_model(other).graph.node) == 1


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin", "a\0b"])
def test_weights_outside_the_models_folder_are_refused(location: str, tmp_path: Path) -> None:
    path = _save(tmp_path, [h.make_node("MatMul", ["x", "w"], ["y"])], (_external("w", location),))
    with pytest.raises(WeightsError) as refusal:
        open_model(path)
    assert f"'model.onnx' takes weights from '{location}', outside its own folder" in str(refusal.value)
    assert "Move the weights beside the model" in str(refusal.value)


def test_weights_of_constant_nodes_and_bodies_must_lie_in_the_folder_too(tmp_path: Path) -> None:
    constant = h.make_node("Constant", [], ["w"], value=_external("v", "/etc/passwd"))
    body = h.make_graph([constant], "body", [], [h.make_tensor_value_info("w", T.FLOAT, None)])
    branch = h.make_node("If", ["c"], ["w"], then_branch=body, else_branch=body)
    condition = h.make_tensor("c", T.BOOL, [], [True])
    product = h.make_node("MatMul", ["x", "w"], ["y"])
    for first in (constant, branch):
        with pytest.raises(WeightsError, match="takes weights from '/etc/passwd'"):
            open_model(_save(tmp_path, [first, product], (condition,)))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "model", tmp_path / "secret.bin"
    inside.mkdir()
    outside.write_bytes(b"secret")
    (inside / "weights.bin").symlink_to(outside)
    path = _save(inside, [h.make_node("MatMul", ["x", "w"], ["y"])], (_external("w", "weights.bin"),))
    with pytest.raises(WeightsError, match="outside its own folder"):
        open_model(path)


def test_missing_external_weights_are_declared_all_the_same(tmp_path: Path) -> None:
    tensor = _external("w", "deep/weights.bin", offset="128", length="64")
    graph = read_graph(_save(tmp_path, [h.make_node("MatMul", ["x", "w"], ["y"])], (tensor,)))
    assert graph.weights["w"].file == WeightFile("deep/weights.bin", 128, 64)
    assert graph.weights["w"].nbytes == 64


def test_a_skeletons_weights_exist_nowhere(skeleton: Skeleton) -> None:
    graph = read_graph(skeleton("mobius.llama"))
    files = {w.file.location for w in graph.weights.values() if w.file is not None}
    assert "weights.bin" in files
    assert not [file for file in files if (graph.source.parent / file).exists()]


def test_an_offset_that_is_no_number_is_refused(tmp_path: Path) -> None:
    tensor = _external("w", "weights.bin", offset="-1", length="many")
    with pytest.raises(
        WeightsError, match="Weight 'w' lies at offset '-1', length 'many': these are no numbers"
    ):
        read_graph(_save(tmp_path, [h.make_node("MatMul", ["x", "w"], ["y"])], (tensor,)))


def test_a_weight_of_no_type_or_negative_extent_is_refused(tmp_path: Path) -> None:
    for broken in (
        onnx.TensorProto(name="w", dims=[4]),
        onnx.TensorProto(name="w", data_type=T.FLOAT, dims=[-4]),
    ):
        with pytest.raises(GraphError, match=r"Weight 'w' has element type \d and extents \[-?4\]\."):
            read_graph(_save(tmp_path, [h.make_node("MatMul", ["x", "w"], ["y"])], (broken,)))


def test_a_constant_that_holds_less_than_it_declares_is_refused(tmp_path: Path) -> None:
    short = onnx.TensorProto(name="axes", data_type=T.INT64, dims=[3], raw_data=b"\0" * 8)
    with pytest.raises(GraphError, match="Weight 'axes' does not hold what it declares"):
        read_graph(_save(tmp_path, [h.make_node("Squeeze", ["x", "axes"], ["y"])], (short,)))


def test_a_cycle_is_refused_by_a_node_on_it(tmp_path: Path) -> None:
    nodes = [
        h.make_node("Add", ["x", "c"], ["a"], name="behind"),
        h.make_node("Add", ["x", "b"], ["c"], name="one"),
        h.make_node("Neg", ["c"], ["b"], name="other"),
        h.make_node("Neg", ["a"], ["y"], name="last"),
    ]
    with pytest.raises(
        GraphError, match=r"^'model.onnx': node '(one|other)' \((Add|Neg)\) takes part in a cycle\.$"
    ):
        open_model(_save(tmp_path, nodes))
    with pytest.raises(GraphError, match=r"node 'own' \(Add\) takes part in a cycle\."):
        open_model(_save(tmp_path, [h.make_node("Add", ["x", "y"], ["y"], name="own")]))


def test_a_value_that_nothing_writes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"Node 'n' \(Add\) reads 'ghost', which nothing before it writes"):
        read_graph(_save(tmp_path, [h.make_node("Add", ["x", "ghost"], ["y"], name="n")]))


@pytest.mark.parametrize(("op", "inputs"), [("Gather", ["x"]), ("MatMul", ["x", ""]), ("TopK", ["x"])])
def test_an_op_without_its_operands_is_refused(op: str, inputs: list[str], tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=rf"Node 'n' \({op}\) must have 2 inputs and \d outputs at least"):
        read_graph(_save(tmp_path, [h.make_node(op, inputs, ["y"], name="n")]))


def test_unsorted_nodes_are_sorted_and_the_others_keep_their_order(tmp_path: Path) -> None:
    nodes = [
        h.make_node("Neg", ["x"], ["a"], name="a"),
        h.make_node("Add", ["c", "b"], ["y"], name="y"),
        h.make_node("Neg", ["x"], ["c"], name="c"),
        h.make_node("Neg", ["a"], ["b"], name="b"),
    ]
    assert [node.name for node in open_model(_save(tmp_path, nodes)).graph.node] == ["a", "c", "b", "y"]


def test_sorted_nodes_are_left_as_they_are(skeleton: Skeleton) -> None:
    path = skeleton("llama.dynamo.op23")
    stored = onnx.load(path, load_external_data=False)
    assert [n.name for n in open_model(path).graph.node] == [n.name for n in stored.graph.node]


def test_a_body_that_reads_the_graph_waits_for_what_it_reads(tmp_path: Path) -> None:
    body = h.make_graph(
        [h.make_node("Neg", ["late"], ["z"])], "b", [], [h.make_tensor_value_info("z", T.FLOAT, None)]
    )
    nodes = [
        h.make_node("If", ["c"], ["y"], name="if", then_branch=body, else_branch=body),
        h.make_node("Neg", ["x"], ["late"], name="late"),
    ]
    graph = read_graph(_save(tmp_path, nodes, (h.make_tensor("c", T.BOOL, [], [True]),)))
    assert [node.name for node in graph.nodes] == ["late", "if"]
    assert graph.nodes[1].captures == ("late",)


def test_functions_of_a_foreign_domain_are_inlined_and_runtimes_own_stay(tmp_path: Path) -> None:
    def function(domain: str) -> onnx.FunctionProto:
        body = [h.make_node("Neg", ["a"], ["t"]), h.make_node("Relu", ["t"], ["b"])]
        return h.make_function(domain, "Fold", ["a"], ["b"], body, [h.make_opsetid("", 21)])

    nodes = [
        h.make_node("Fold", ["x"], ["m"], domain="acme"),
        h.make_node("Fold", ["m"], ["y"], domain="com.microsoft"),
    ]
    path = _save(tmp_path, nodes)
    model = onnx.load(path)
    model.functions.extend([function("acme"), function("com.microsoft")])
    path.write_bytes(model.SerializeToString())
    assert [node.kind for node in read_graph(path).nodes] == ["Neg", "Relu", "com.microsoft::Fold"]


def test_what_a_constant_node_holds_is_a_weight(tmp_path: Path) -> None:
    nodes = [
        h.make_node("Constant", [], ["w"], value=h.make_tensor("v", T.FLOAT, [4, 4], [0.5] * 16)),
        h.make_node("Constant", [], ["axes"], value_ints=[0, 1]),
        h.make_node("Constant", [], ["scale"], value_float=2.0),
        h.make_node("Constant", [], ["text"], value_string="hello"),
        h.make_node("MatMul", ["x", "w"], ["p"]),
        h.make_node("ReduceSum", ["p", "axes"], ["s"]),
        h.make_node("Mul", ["s", "scale"], ["y"]),
    ]
    weights = read_graph(_save(tmp_path, nodes)).weights
    assert set(weights) == {"w", "axes", "scale"}
    assert (weights["w"].shape, weights["w"].integers) == ((4, 4), None)
    assert (weights["axes"].shape, weights["axes"].integers) == ((2,), (0, 1))
    assert (weights["scale"].shape, weights["scale"].dtype.label) == ((), "float32")


def test_an_unknown_op_gets_a_warning_a_role_and_a_cost(skeleton: Skeleton) -> None:
    path = skeleton("mobius.llama")
    model = open_model(path)
    known = run(read_graph(path, model), load_pipeline())
    place = next(i for i, m in enumerate(known.marks) if m.role is Role.FFN and known.nodes[i].op == "Mul")
    model.graph.node[place].op_type, model.graph.node[place].domain = "Swirl", "acme"
    graph = run(read_graph(path, model), load_pipeline())
    assert graph.warnings[0] == (
        "Unknown op domain 'acme': 1 x acme::Swirl is placed with what stands around it. "
        "Say what it does in passes/roles/*.toml."
    )
    assert any(w.startswith("No cost rule for acme::Swirl: 1 priced by the bytes") for w in graph.warnings)
    assert graph.marks[place].role is Role.FFN
    assert graph.costs[place].activation_in.terms
    assert [m.role for m in graph.marks] == [m.role for m in known.marks]


def test_a_graph_without_tokens_is_placed_op_by_op_with_a_warning(tmp_path: Path) -> None:
    nodes = [h.make_node("Swirl", ["x"], ["m"], domain="acme"), h.make_node("Relu", ["m"], ["y"])]
    graph = run(read_graph(_save(tmp_path, nodes)), load_pipeline())
    assert {mark.role for mark in graph.marks} == {Role.GENERAL}
    assert [segment.nodes for segment in graph.segments] == [(0,), (1,)]
    assert any(warning.startswith("No stream of tokens") for warning in graph.warnings)
    assert graph.costs[0].activation_in.terms


def test_an_attention_op_that_nobody_knows_still_pays_for_its_cache(skeleton: Skeleton) -> None:
    path = skeleton("full.qwen3_235b.moe_op")
    model = open_model(path)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            node.domain, node.op_type = "acme", "Attend"
    graph = run(read_graph(path, model), load_pipeline())
    known = run(read_graph(path), load_pipeline())
    assert [c.state_write for c in graph.costs] == [c.state_write for c in known.costs]
    assert [m.layer for m in graph.marks] == [m.layer for m in known.marks]
