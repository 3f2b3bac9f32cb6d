"""What engines a plan comes to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disaggc.backends.emitters import Order, Settings
from disaggc.backends.emitters.op_table import ranges
from disaggc.backends.emitters.serving import engines_of, node_share, shape_of, slug
from disaggc.errors import PlanError
from disaggc.plans import open_plan
from disaggc.targets import load_library

Plans = Callable[[str], Path]


def order(folder: Path, **settings: object) -> Order:
    return Order(open_plan(folder), folder, folder, load_library(), Settings(**settings))  # type: ignore[arg-type]


def test_a_dense_models_replicas_are_engines_of_their_own(plans: Plans) -> None:
    (engine,) = engines_of(order(plans("colocated")))
    pool = engine.pool.parallelism
    assert (engine.role, engine.dp, engine.replicas) == ("aggregated", 1, pool.dp)
    assert engine.devices * engine.replicas == engine.pool.devices
    assert not engine.expert_parallel


def test_a_mixture_of_experts_is_one_engine_over_all_nodes(plans: Plans) -> None:
    (engine,) = engines_of(order(plans("wide")))
    assert (engine.replicas, engine.devices, engine.nodes, engine.local_dp) == (1, 16, 2, 8)
    assert engine.expert_parallel


def test_requests_in_flight_are_divided_over_data_parallel_ranks(plans: Plans) -> None:
    wanted = order(plans("wide"))
    (engine,) = engines_of(wanted)
    schedule = wanted.plan.schedule
    assert engine.requests == schedule.micro_batch * schedule.micro_batches / engine.pool.parallelism.dp


def test_phases_on_two_pools_are_two_kinds_of_engine(plans: Plans) -> None:
    prefill, decode = engines_of(order(plans("phases")))
    assert (prefill.role, decode.role) == ("prefill", "decode")
    assert prefill.pool.name != decode.pool.name
    assert prefill.requests is None and decode.batched_tokens is None


def test_nodes_are_as_large_as_was_said(plans: Plans) -> None:
    (engine,) = engines_of(order(plans("wide"), node_devices=4))
    assert (engine.node_devices, engine.nodes) == (4, 4)


def test_a_rack_of_gpus_is_nodes_of_four() -> None:
    library = load_library()
    assert library.system("vr-nvl72").devices_per_node == 4
    assert library.system("h100-x8").devices_per_node == 8


@pytest.mark.parametrize(
    ("name", "cure"), [("experts", "--backend afd-plugin"), ("tiny", "--backend dynamo, which has LPX")]
)
def test_layers_on_two_pools_are_refused_with_who_takes_them(plans: Plans, name: str, cure: str) -> None:
    with pytest.raises(PlanError, match=f"divides the layers of a phase between pools.*{cure}"):
        engines_of(order(plans(name)))


def test_pools_are_told_by_what_they_do_not_by_their_names(plans: Plans) -> None:
    shape = shape_of(open_plan(plans("experts")))
    assert shape.attention == ("h20-x8",)
    assert shape.feed_forward == ("l40s-x8",)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16))
def test_an_engine_is_cut_into_equal_nodes_that_cut_no_rank_unevenly(
    width: int, ranks: int, limit: int
) -> None:
    share = node_share(width, ranks, limit)
    assert 1 <= share <= limit
    assert width * ranks % share == 0
    assert share % width == 0 or width % share == 0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Qwen/Qwen3-0.6B", "qwen-qwen3-0-6b"),
        ("3 models", "plan-3-models"),
        ("--'\n$(x)", "x"),
        ("漢", "plan"),
    ],
)
def test_names_become_dns_labels(text: str, label: str) -> None:
    assert slug(text) == label


def test_runs_of_layers_are_written_short() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert ranges([]) == ""
