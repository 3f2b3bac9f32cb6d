from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from disaggc.backends.onnxruntime import boundary
from disaggc.errors import PlanError

from .toys import WIDE, branch, chain, cut, model, run_parts, run_whole, weight

X = np.linspace(-1, 1, 1024, dtype=np.float32).reshape(WIDE)


def test_what_one_part_writes_and_another_reads_crosses() -> None:
    first, second = boundary(chain(), [[0, 1], [2, 3]])
    assert first.inputs == ("x",)
    assert first.outputs == ("b",)
    assert second.inputs == ("b", "x")
    assert second.outputs == ("y",)


def test_what_a_body_captures_is_read() -> None:
    first, second = boundary(branch(), [[0, 1, 2, 3], [4, 5]])
    assert set(first.outputs) == {"a", "positive"}
    assert set(second.inputs) == {"a", "positive", "x"}


def test_a_constant_node_never_crosses() -> None:
    first, second = boundary(branch(), [[0, 1, 2], [3, 4, 5]])
    assert "zero" not in first.outputs
    assert "zero" not in second.inputs


def test_a_node_may_be_in_two_parts_and_the_first_gives_its_value() -> None:
    first, second, third = boundary(chain(), [[0], [0, 1], [2, 3]])
    assert first.outputs == ()
    assert second.inputs == ("x",)
    assert third.inputs == ("b", "x")


def test_an_initializer_that_is_a_graph_input_too_is_no_input_of_a_part() -> None:
    source = chain()
    source.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, WIDE))
    assert [border.inputs for border in boundary(source, [[0, 1], [2, 3]])] == [("x",), ("b", "x")]


def test_a_part_that_reads_from_a_later_one_is_refused() -> None:
    with pytest.raises(PlanError, match="Part 0 reads 'b', which the later part 1 writes"):
        boundary(chain(), [[2, 3], [0, 1]])


def test_a_node_in_no_part_is_refused() -> None:
    with pytest.raises(PlanError, match=r"Part 1 reads 'b', which no part writes. Assign every node"):
        boundary(chain(), [[0], [2, 3]])


@pytest.mark.parametrize("at", range(1, 6))
def test_a_model_with_control_flow_runs_in_two_parts_wherever_it_is_cut(tmp_path: Path, at: int) -> None:
    source = branch()
    parts = cut(source, tmp_path, [range(at), range(at, 6)])
    for x in (X, X + 1):
        np.testing.assert_array_equal(
            run_parts(tmp_path, parts, {"x": x})["y"], run_whole(source, {"x": x})[0]
        )


def test_graph_outputs_that_no_node_writes_leave_through_a_part(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    source = model(nodes, [weight()], outputs=("y", "w", "x"))
    parts = cut(source, tmp_path, [[0], [1]])
    values = run_parts(tmp_path, parts, {"x": X})
    for name, expected in zip(("y", "w", "x"), run_whole(source, {"x": X}), strict=True):
        np.testing.assert_array_equal(values[name], expected)
