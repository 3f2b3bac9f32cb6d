"""Sessions, traces and speculative decoding change what a step computes and how many there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made import decoder, every_answer, rack, request

from disaggc.errors import JobError
from disaggc.placement.modes import ANY
from disaggc.placement.pricing import Limits, Load
from disaggc.placement.request import load_of
from disaggc.placement.search import SIMPLICITY, search
from disaggc.plans import TierSpec, parse_job, with_trace

FLEET = ((rack("h20-x8", 2), 1), (rack("l40s-x8", 2), 1))
PLAIN = Load(500, 7_000, 500, 8_000)
TIER = TierSpec(name="t", context_tokens=10_000, input_tokens=1_000, output_tokens=200)


@pytest.mark.parametrize(("step_tokens", "accepted"), [(1, 1.0), (4, 1.0), (4, 2.5), (4, 4.0)])
def test_the_search_is_exact_whatever_a_step_verifies(step_tokens: int, accepted: float) -> None:
    wanted = request(FLEET, load=replace(PLAIN, step_tokens=step_tokens, accepted=accepted))
    outcome = search(wanted, ANY)
    best = max(answer.tokens_per_s for answer in every_answer(wanted))
    assert outcome.answer is not None
    assert outcome.bound == pytest.approx(best)
    assert outcome.answer.tokens_per_s >= best * (1 - SIMPLICITY)


def test_accepted_tokens_share_one_reading_of_the_weights() -> None:
    """A step that verifies four tokens reads the weights once; those that are rejected were in vain."""
    free, long = Limits(None, None), Load(1, 7_000, 5_000, 13_000)
    rates = {
        load: search(request(FLEET, decoder(ffn=400_000_000), load, free), ANY).bound
        for load in (long, replace(long, step_tokens=4), replace(long, step_tokens=4, accepted=4.0))
    }
    plain, rejected, accepted = rates.values()
    assert rejected < plain
    assert 1.5 * plain < accepted < 4 * plain
    assert accepted == pytest.approx(4 * rejected, rel=0.1)


def test_a_turn_stands_behind_half_of_its_session() -> None:
    assert load_of(TIER) == Load(1_000, 0, 200, 10_000)
    assert load_of(replace(TIER, turns=5)) == Load(1_000, 4 * 1_200 // 2, 200, 10_000)
    assert load_of(replace(TIER, prefix_hit=0.5, turns=3)) == Load(500, 500 + 1_200, 200, 10_000)


def test_a_draft_is_verified_beside_the_next_token() -> None:
    load = load_of(replace(TIER, draft_tokens=3, tokens_per_step=2.4))
    assert (load.step_tokens, load.accepted, load.steps) == (4, 2.4, 200 / 2.4)


def _job(**tier: Any) -> None:
    data = {"model": {"onnx": "m.onnx"}, "fleet": {"vr-nvl72": 1}, "tier": [{"like": "gtc2026/free", **tier}]}
    parse_job(data, "job.toml")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"turns": 0}, "turns = 0 must be more than 0"),
        ({"draft_tokens": -1}, "draft_tokens = -1 must be 0 or more"),
        ({"tokens_per_step": 2.0}, "must be from 1 to draft_tokens \\+ 1 = 1"),
        ({"draft_tokens": 3, "tokens_per_step": 4.5}, "must be from 1 to draft_tokens \\+ 1 = 4"),
        ({"trace": "t.csv", "input_tokens": 5}, "from a trace or from input_tokens"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(JobError, match=why):
        _job(**fields)


def test_a_trace_gives_mean_lengths(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,input_tokens,output_tokens\n0,100,10\n1,300,20\n2,200,33\n")
    found = with_trace(TierSpec(trace="t.csv"), tmp_path)
    assert (found.input_tokens, found.output_tokens) == (200, 21)
    assert with_trace(TIER, tmp_path) == TIER


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "Cannot read trace 't.csv'"),
        ("a,b\n1,2\n", "has no column input_tokens"),
        ("input_tokens,output_tokens\n", "holds no request"),
        ("input_tokens,output_tokens\n5,x\n", "line 2: 5, x must be whole numbers"),
        ("input_tokens,output_tokens\n5\n", "line 2: 5,  must be whole numbers"),
    ],
)
def test_a_bad_trace_is_refused(tmp_path: Path, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    with pytest.raises(JobError, match=why):
        with_trace(TierSpec(trace="t.csv"), tmp_path)
