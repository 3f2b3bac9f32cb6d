"""Outputs that keep their buffers, and what happens when their shape changes after all."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from disaggc.runtime.engine import InferenceSession, OrtValue, Session, SessionOptions
from disaggc.runtime.stage import BoundStage, Outline
from disaggc.runtime.tensors import blank, wrap


def session() -> Session:
    """y = 2 x, and z, the places where x is not zero, whose number depends on the data."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("NonZero", ["x"], ["z"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    z = helper.make_tensor_value_info("z", TensorProto.INT64, [1, None])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y, z]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.checker.check_model(model)
    options = SessionOptions()
    options.log_severity_level = 4
    opened: Session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return opened


def outline(**known: Any) -> Outline:
    """The stage before it has tensors; for each attribute of it names, or whether."""
    return Outline(session(), ("x",), ("y", "z"), **known)


def step(stage: BoundStage, values: MutableMapping[str, OrtValue], x: list[float]) -> bool:
    values["x"] = wrap(np.array(x, np.float32))
    moved = stage.run(values)
    np.testing.assert_array_equal(values["y"].numpy(), 2 * np.array(x, np.float32))
    np.testing.assert_array_equal(values["z"].numpy(), [np.flatnonzero(x)])
    return moved


def test_an_output_of_unchanged_shape_keeps_its_buffer() -> None:
    stage, values = BoundStage(outline(observed=frozenset("yz"))), dict[str, OrtValue]()
    assert step(stage, values, [1, 0, 2])
    assert step(stage, values, [0, 3, 4])
    kept = values["y"], values["z"]
    assert not step(stage, values, [5, 6, 0])
    assert (values["y"], values["z"]) == kept


@pytest.mark.parametrize("other", [[1, 2, 3], [0, 0, 0], [1, 0, 0]])
def test_an_observed_shape_that_changes_after_all_is_right_from_then_on(other: list[float]) -> None:
    stage, values = BoundStage(outline(observed=frozenset("yz"))), dict[str, OrtValue]()
    for x in ([1, 0, 2], [0, 3, 4], [5, 6, 0], other, [7, 0, 8], [1, 1, 1], [0, 9, 0]):
        step(stage, values, [float(number) for number in x])


def test_a_stage_that_may_not_be_run_twice_is_never_routine() -> None:
    routine = []
    for may_repeat in (True, False):
        values: dict[str, OrtValue] = {}
        stage = BoundStage(outline(steady=frozenset("yz"), may_repeat=may_repeat))
        for x in ([1.0, 0.0], [0.0, 2.0], [3.0, 0.0]):
            step(stage, values, x)
        routine.append(stage.settled is not None)
    assert routine == [True, False]


def test_only_what_may_settle_settles() -> None:
    stage, values = BoundStage(outline(steady=frozenset("y"))), dict[str, OrtValue]()
    for x in ([1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [3.0, 4.0]):
        assert step(stage, values, x)


def test_a_shape_that_stayed_before_is_expected_to_stay() -> None:
    common = outline(observed=frozenset("yz"))
    for steps in (2, 1):
        stage, values = BoundStage(common), dict[str, OrtValue]()
        moved = [step(stage, values, x) for x in ([1.0, 0.0], [0.0, 2.0], [3.0, 0.0])]
        assert moved == [True] * steps + [False] * (3 - steps)
    assert common.proven == {"y", "z"}


def test_a_shape_that_was_expected_to_stay_and_does_not_is_expected_no_more() -> None:
    common = outline(observed=frozenset("yz"))
    first, values = BoundStage(common), dict[str, OrtValue]()
    for x in ([1.0, 0.0], [0.0, 2.0]):
        step(first, values, x)
    second, values = BoundStage(common), dict[str, OrtValue]()
    for x in ([1.0, 0.0], [3.0, 4.0], [0.0, 5.0], [0.0, 0.0]):
        step(second, values, x)
    assert common.proven == set()
    third, values = BoundStage(common), dict[str, OrtValue]()
    for x in ([1.0, 0.0], [3.0, 4.0], [0.0, 5.0]):
        step(third, values, x)


def test_an_output_that_leaves_is_written_where_others_read_it_as_soon_as_its_shape_is_proven() -> None:
    common = outline(observed=frozenset("yz"), leaving=frozenset("y"))
    for steps in (2, 1):
        placed: list[OrtValue] = []

        def place(shape: Sequence[int], number: int, placed: list[OrtValue] = placed) -> OrtValue:
            placed.append(blank(shape, number)[1])
            return placed[-1]

        stage, values = BoundStage(common, place=place), dict[str, OrtValue]()
        for taken, x in enumerate(([1.0, 0.0], [0.0, 2.0], [3.0, 0.0]), start=1):
            step(stage, values, x)
            assert placed == [values["y"]] * (taken >= steps)
