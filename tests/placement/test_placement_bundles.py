"""Layers that are alike and placed unlike: what lies behind attention in bundles of layers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from known_machine import known_system
from made import FP8, LIBRARY

from disaggc.cost import AS_STORED, Formats, Group
from disaggc.ir import Graph, Phase, Role
from disaggc.placement import Piece, Pieces, Request, evaluate, fold
from disaggc.placement.decide import Decision, decide
from disaggc.placement.formulation import write_problem
from disaggc.placement.modes import ANY, FEED_FORWARD, allowed_places, modes_of, parted_layers
from disaggc.placement.pricing import Limits, Load, Pricing
from disaggc.placement.problem import Assignment

Analysed = Callable[[str], Graph]
MODELS = ("full.llama3_70b.torch", "qwen3_moe.gqa_moe", "deepseek_v3.batched_mm.dynamo.op23")
LOAD = Load(100, 0, 100, 1000)
AS_IT_IS = Formats(AS_STORED, AS_STORED, AS_STORED)
HERE, THERE = known_system(), known_system("there")


def feed_forward(pieces: Pieces) -> list[int]:
    return [i for i, piece in enumerate(pieces.pieces) if piece.role in FEED_FORWARD]


def best(graph: Graph, *, bundled: bool, mode: str = "afd", micro_batches: int = 3) -> Decision:
    """On two executors of this machine, one request a micro-batch."""
    return decide(
        Request(
            fold(graph, bundled),
            ((HERE, 1), (THERE, 1)),
            LOAD,
            AS_IT_IS,
            Limits(None, None),
            batches=(1,),
            micro_batches=(micro_batches,),
            mode=mode,
        )
    )


# Which layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_bundles_hold_each_layer_once_and_no_state(model: str, analysed: Analysed) -> None:
    graph = analysed(model)
    whole, parted = fold(graph), fold(graph, bundled=True)
    for piece in whole.pieces:
        parts = [p for p in parted.pieces if p.key == piece.key]
        assert sorted(s for p in parts for s in p.segments) == sorted(piece.segments)
        assert sum(p.count for p in parts) == piece.count
        assert [p.bundle for p in parts] == list(range(len(parts)))
        assert {_alike(part) for part in parts} == {_alike(piece)}
        if piece.has_state or not piece.in_layers or piece.role is Role.CORE_ATTENTION:
            assert len(parts) == 1
    assert (whole.kv_elements, whole.layers) == (parted.kv_elements, parted.layers)
    assert whole.resident_bytes(FP8) == pytest.approx(parted.resident_bytes(FP8))


def _alike(piece: Piece) -> str:
    """All of a piece but which layers it is of."""
    return repr(replace(piece, count=0, segments=(), bundle=0))


@pytest.mark.parametrize("model", MODELS)
def test_any_number_of_layers_can_be_parted_from_the_others(model: str, analysed: Analysed) -> None:
    parted = fold(analysed(model), bundled=True)
    by_key: dict[object, list[int]] = {}
    for i in feed_forward(parted):
        by_key.setdefault(parted.pieces[i].key, []).append(parted.pieces[i].count)
    for counts in by_key.values():
        sums = {sum(chosen) for n in range(len(counts) + 1) for chosen in itertools.combinations(counts, n)}
        assert sums == set(range(sum(counts) + 1))


def test_each_bundle_is_spread_evenly(analysed: Analysed) -> None:
    parted = fold(analysed("full.llama3_70b.torch"), bundled=True)
    assert [parted.pieces[i].count for i in feed_forward(parted)] == [40, 20, 10, 5, 2, 1, 1, 1]
    for i in feed_forward(parted):
        gaps = Counter(b - a for a, b in itertools.pairwise(parted.pieces[i].segments))
        assert len(gaps) <= 2, "but for the first layer, whose norm stands by itself"


# What it costs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_bundles_placed_alike_cost_what_the_whole_costs(model: str, analysed: Analysed) -> None:
    graph = analysed(model)
    groups = (Group(LIBRARY.system("vr-nvl72"), 1, 2, 36, 1), Group(LIBRARY.system("groq3-lpx"), 2, 64, 1, 8))
    whole, parted = (Pricing(fold(graph, bundled), groups, LOAD, FP8) for bundled in (False, True))
    places = [0 if p.role in (Role.CORE_ATTENTION, Role.QKV) else 1 for p in whole.pieces.pieces]
    assignments = {
        "apart": (*(0 for _ in places), *places),
        "attention elsewhere": (*places, *(1 - place for place in places)),
    }
    for assignment in assignments.values():
        values = _rows(whole, assignment)
        assert _rows(parted, _spread(whole.pieces, parted.pieces, assignment)) == pytest.approx(
            values, rel=1e-6, abs=1000
        )


def _rows(pricing: Pricing, assignment: Assignment) -> dict[str, int]:
    problem = write_problem(pricing, 64, 2, Limits(None, None), allowed_places(pricing, ANY))
    return evaluate(problem, assignment).rows


def _spread(whole: Pieces, parted: Pieces, assignment: Assignment) -> Assignment:
    place = {piece.key: i for i, piece in enumerate(whole.pieces)}
    n = len(whole.pieces)
    return tuple(assignment[offset + place[p.key]] for offset in (0, n) for p in parted.pieces)


# What it brings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["llama.dynamo.op23", "qwen3_moe.gqa_moe"])
def test_some_layers_are_never_worse_than_all(model: str, analysed: Analysed) -> None:
    graph = analysed(model)
    every, some = best(graph, bundled=False), best(graph, bundled=True)
    assert some.bound >= every.bound * (1 - 1e-9)
    assert some.answer.tokens_per_s > 1.04 * every.answer.tokens_per_s, "it balances the two"
    assert some.mode.startswith("AFD: attention on ")
    assert some.mode.endswith(" of 4 layers")


def test_the_mode_says_how_many_layers_and_stands_once_among_the_options(analysed: Analysed) -> None:
    found = best(analysed("qwen3_moe.gqa_moe"), bundled=True)
    pieces, answer = found.request.pieces, found.answer
    told = parted_layers(pieces, answer.assignment)
    core = next(
        answer.assignment[len(pieces.pieces) + i]
        for i, p in enumerate(pieces.pieces)
        if p.role is Role.CORE_ATTENTION
    )
    away = [i for i in feed_forward(pieces) if answer.assignment[len(pieces.pieces) + i] != core]
    assert told == f" in {sum(pieces.pieces[i].count for i in away)} of 4 layers"
    kind = found.mode.removesuffix(told)
    assert [option.mode for option in found.options if option.mode.startswith(kind)] == [found.mode]
    assert sum(option.chosen for option in found.options) == 1


def test_an_afd_mode_keeps_the_largest_bundle_apart(analysed: Analysed) -> None:
    pieces = fold(analysed("full.llama3_70b.torch"), bundled=True)
    afd = next(mode for mode in modes_of(("a", "b")) if mode.name == "AFD: attention on a, FFN on b")
    wanted = [afd.wants(pieces.pieces[i], Phase.DECODE) for i in feed_forward(pieces)]
    assert wanted == ["b", *("" for _ in wanted[1:])]
