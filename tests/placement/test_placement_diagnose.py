"""Why there is no plan, and cures that are followed to see that they work."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from made import FP8, decoder, rack, request, with_sram

from disaggc.cost import Formats
from disaggc.errors import InfeasiblePlanError
from disaggc.placement import Request
from disaggc.placement.decide import decide
from disaggc.placement.pricing import Limits, Load

HBM, SRAM = rack("vr-nvl72", 4), rack("groq3-lpx", 4)
BOTH = ((HBM, 1), (SRAM, 1))


def _refusal(wanted: Request) -> str:
    with pytest.raises(InfeasiblePlanError) as caught:
        decide(wanted)
    return str(caught.value)


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1].replace("_", ""))


def test_every_mode_says_why_it_has_no_plan() -> None:
    told = _refusal(request(BOTH, limits=Limits(1 / 20_000, 10.0)))
    assert told.startswith("No plan on 1 x vr-nvl72, 1 x groq3-lpx meets the tier.\n")
    for mode in ("colocated on vr-nvl72", "AFD: attention on vr-nvl72, FFN on groq3-lpx"):
        line = rf"  {mode}: its fastest plan .* takes [\d,]+ us a token \([\d,]+ tokens/s/user\); "
        assert re.search(line + r"the tier asks for 20,000: \d+% too slow\n", told)


def test_a_speed_that_is_offered_works_and_a_little_more_does_not() -> None:
    wanted = request(BOTH, limits=Limits(1 / 20_000, 10.0))
    speed = _number(r"tokens_per_s_per_user = ([\d_]+) or less \(asked: 20,000\)", _refusal(wanted))
    assert decide(replace(wanted, limits=Limits(1 / speed, 10.0))).answer.tokens_per_s > 0
    _refusal(replace(wanted, limits=Limits(1 / (speed * 1.01), 10.0)))


def test_a_first_token_that_is_offered_works() -> None:
    wanted = request(BOTH, limits=Limits(1 / 20, 1e-6))
    told = _refusal(wanted)
    assert re.search(
        r"with a first token after [\d,]+ ms; the tier asks for 0 ms at most, with its speed", told
    )
    ttft = _number(r"ttft_ms = ([\d_]+) or more \(asked: 0\)", told)
    assert decide(replace(wanted, limits=Limits(1 / 20, ttft / 1e3))).answer.tokens_per_s > 0


def _with_context(wanted: Request, context: float) -> Request:
    load = replace(wanted.load, context_tokens=int(context), input_tokens=int(context) - 500)
    return replace(wanted, load=load)


def test_a_context_that_is_offered_works_and_a_much_longer_one_does_not() -> None:
    fleet = ((SRAM, 1),)
    wanted = request(fleet, load=Load(7_500_000, 0, 500, 7_500_500), limits=Limits(None, None))
    told = _refusal(wanted)
    assert re.search(
        r"weights of .* and caches of .* for one request of 7,500,500 tokens need .*: .* short", told
    )
    context = _number(r"context_tokens = ([\d_]+) or less, prompts shortened to match", told)
    assert decide(_with_context(wanted, context)).answer.tokens_per_s > 0
    _refusal(_with_context(wanted, context * 1.2))


def test_a_number_of_systems_that_is_offered_works_and_one_less_does_not() -> None:
    wanted = replace(request(((with_sram(SRAM, 0.2), 1),), limits=Limits(None, None)), batches=(1,))
    count = int(_number(r"groq3-lpx = (\d+) \(asked: 1\)", _refusal(wanted)))
    (system, _), *_ = wanted.fleet
    assert decide(replace(wanted, fleet=((system, count),))).answer.tokens_per_s > 0
    _refusal(replace(wanted, fleet=((system, count - 1),)))


def test_a_search_that_starts_too_high_is_named_as_the_cause_and_the_cure() -> None:
    wanted = replace(request(((SRAM, 1),)), batches=(4096,), micro_batches=(2,))
    told = _refusal(wanted)
    assert "with 8,192 requests in flight, the least of [search], do not fit its devices" in told
    assert "[search] batch = [1], micro_batches = [1] (asked: 4,096 and 2 at least)" in told
    assert decide(replace(wanted, batches=(1,), micro_batches=(1,))).answer.tokens_per_s > 0


def test_weights_that_a_device_cannot_hold_are_named_with_a_format_that_it_can() -> None:
    wanted = replace(request(((SRAM, 1),)), formats=Formats("as stored", "fp8", "bf16"))
    told = _refusal(wanted)
    assert (
        "colocated on groq3-lpx: lp30 holds weights in fp8, and the job serves them stored as they are. "
        "Set weights = 'fp8' in [model]"
    ) in told
    assert decide(replace(wanted, formats=FP8)).answer.tokens_per_s > 0


def test_where_nothing_alone_helps_that_is_said() -> None:
    pieces = decoder(ffn=2_000_000_000)
    told = _refusal(request(((SRAM, 1),), pieces, limits=Limits(1 / 1e6, 1e-9)))
    assert told.endswith("No single change of the tier or the fleet helps.")
