"""How values flow, on stages that are nothing but names."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from disaggc.errors import PlanError
from disaggc.plans import Feed, PhasePlan, Plan, Stage, StateRef
from disaggc.runtime.wiring import Hop, Ports, Wiring, wire

from .splitting import one_stage_plan

HIDDEN = ("batch", "seq", 8)


def stage(index: int, pool: str) -> Stage:
    return Stage(index, pool, (), (), f"{index}.onnx", (), ())


def plan(pools: list[str], states: tuple[StateRef, ...] = ()) -> Plan:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])
    model = helper.make_model(helper.make_graph([], "g", [ids], []))
    stages = tuple(stage(i, pool) for i, pool in enumerate(pools))
    known = one_stage_plan(Path("m.onnx"), onnx.ModelProto.FromString(model.SerializeToString()))
    return replace(known, states=states, decode=PhasePlan(stages))


def ports(inputs: str, outputs: str) -> Ports:
    return Ports(dict.fromkeys(inputs.split(), HIDDEN), dict.fromkeys(outputs.split(), HIDDEN))


def cache(in_place: bool = True) -> StateRef:
    return StateRef("past", "present", "float32", ("batch", "capacity", 8), 1, in_place)


def wired(pools: str, *stages: Ports, states: tuple[StateRef, ...] = ()) -> Wiring:
    return wire(plan(pools.split(), states), "decode", stages)


def test_a_value_that_two_stages_of_a_pool_read_goes_there_once() -> None:
    found = wired(
        "a b a b", ports("input_ids", "x"), ports("x", "y"), ports("y", "z"), ports("x z", "logits")
    )
    assert found.hops == ((Hop("a", "b", ("x",)),), (Hop("b", "a", ("y",)),), (Hop("a", "b", ("z",)),), ())


def test_a_value_goes_to_every_pool_that_reads_it() -> None:
    found = wired("a b c", ports("input_ids", "x"), ports("x", "y"), ports("x y", "logits"))
    assert found.hops[0] == (Hop("a", "b", ("x",)), Hop("a", "c", ("x",)))


def test_a_feed_goes_to_the_pools_that_read_it() -> None:
    found = wired("a b", ports("input_ids", "x"), ports("x", "logits"))
    assert found.feeds == {"a": ("input_ids",), "b": ()}


def test_a_state_stays_with_the_pool_that_writes_it() -> None:
    found = wired("a b", ports("input_ids past", "x present"), ports("x", "logits"), states=(cache(),))
    assert found.keepers == {"past": "a"}
    assert found.aliased == {"past"}
    assert found.lent == ()


def test_a_state_that_another_pool_reads_is_lent_to_it() -> None:
    found = wired("b a", ports("past", "x"), ports("input_ids x past", "logits present"), states=(cache(),))
    assert found.lent == (Hop("a", "b", ("past",)),)
    assert found.aliased == {"past"}


def test_a_state_that_is_read_after_it_was_written_is_not_in_place() -> None:
    found = wired("a b", ports("input_ids past", "x present"), ports("x past", "logits"), states=(cache(),))
    assert found.lent == (Hop("a", "b", ("past",)),)
    assert found.aliased == frozenset()


def test_a_state_that_cannot_be_in_place_is_not() -> None:
    found = wired("a", ports("input_ids past", "logits present"), states=(cache(in_place=False),))
    assert found.aliased == frozenset()


def test_shapes_of_batch_and_new_tokens_are_steady_and_others_are_not() -> None:
    known = plan(["a"])
    known = replace(known, feeds=(*known.feeds, Feed("mask", "attention_mask", "int64", ("batch", "total"))))
    port = Ports({"input_ids": ("batch", "seq"), "mask": ("batch", "total")}, {"logits": HIDDEN})
    found = wire(known, "decode", [port])
    assert found.is_steady(("batch", "seq", 8))
    assert found.is_steady(("batch*seq", 8))
    assert not found.is_steady(("batch", "total"))
    assert not found.is_steady(("u0", 8))
    assert not found.is_steady((None, 8))


def test_a_value_read_before_it_is_written_is_refused() -> None:
    with pytest.raises(PlanError, match=r"Stage 0 \('0.onnx' on 'a'\) reads 'y', which neither a feed nor"):
        wired("a b", ports("input_ids y", "x"), ports("x", "y logits"))


def test_logits_that_no_stage_writes_are_refused() -> None:
    with pytest.raises(PlanError, match="No decode stage writes 'logits'"):
        wired("a", ports("input_ids", "x"))


def test_a_phase_without_stages_is_refused() -> None:
    with pytest.raises(PlanError, match="The plan has no prefill stages"):
        wire(plan(["a"]), "prefill", [])
