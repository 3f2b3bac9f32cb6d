"""What is printed of runs and verifications, failing ones too."""

from __future__ import annotations

import json
import math

import pytest

from disaggc.report import Screen, run_data, run_table, verification_data, verification_table
from disaggc.runtime import Comparison, Link, PhaseTime, RunResult, Verification

RUN = RunResult(
    tokens=((7, 8), (9, 10)),
    prefill=PhaseTime("prefill", 1, 6, 0.5),
    decode=PhaseTime("decode", 1, 2, 0.25),
    stages=(),
    links=(Link("groq3-lpx", "vr-nvl72", 4, 4, 4096),),
    handed_over=2048,
    threads=1,
)
EQUAL = Comparison(tokens_equal=True, first_difference=None, difference=1e-7, magnitude=2.0)
DIFFERENT = Comparison(tokens_equal=False, first_difference=1, difference=math.inf, magnitude=3.0)


def test_a_run_is_told_with_its_tokens_times_and_traffic(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show(*run_table(RUN))
    text = capsys.readouterr().out
    assert "0        7, 8 " in text
    assert (
        "prefill 6 tokens in 500.0 ms; decode 2 tokens in 250.0 ms (8 tokens/s on this machine, 1 thread)"
        in text
    )
    assert "groq3-lpx -> vr-nvl72: 4 messages, 4,096 bytes of activations" in text
    assert "cache handed from prefill to decode: 2,048 bytes" in text


def test_a_run_for_programs_says_the_same() -> None:
    data = run_data(RUN)
    assert data["tokens"] == [[7, 8], [9, 10]]
    assert (data["decode_tokens_per_s"], data["handed_over_bytes"]) == (8.0, 2048)
    assert data["links"] == [{"source": "groq3-lpx", "target": "vr-nvl72", "messages": 4, "bytes": 4096}]


def test_a_verification_that_fails_names_request_and_token(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show(*verification_table(Verification((EQUAL, DIFFERENT), RUN, RUN)))
    text = capsys.readouterr().out
    assert text.startswith("different: 1 of 2 requests\n  request 1: first difference at new token 1\n")
    assert "largest logit difference inf (largest logit 3)" in text


def test_a_verification_that_holds_counts_what_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show(*verification_table(Verification((EQUAL, EQUAL), RUN, RUN)))
    text = capsys.readouterr().out
    assert text.startswith("equal: all 4 tokens of 2 requests agree with the uncut model\n")


def test_an_infinite_difference_is_still_json(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show_json(verification_data(Verification((EQUAL, DIFFERENT), RUN, RUN)))
    text = capsys.readouterr().out
    assert "Infinity" not in text
    data = json.loads(text)
    assert (data["tokens_equal"], data["largest_logit_difference"]) == (False, None)
    assert [request["first_difference"] for request in data["requests"]] == [None, 1]
