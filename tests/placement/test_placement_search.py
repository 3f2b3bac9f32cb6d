import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made import ANY, FP8, decoder, every_answer, rack, request, with_slower_link, with_sram

from disaggc.cost import Array, Group
from disaggc.ir import Routing
from disaggc.placement import Pieces, Request, evaluate, search
from disaggc.placement.decide import decide, tpot_seconds
from disaggc.placement.formulation import PICO, STEP_OVERHEAD_S, write_problem
from disaggc.placement.modes import allowed_places
from disaggc.placement.pricing import Limits, Load, Pricing
from disaggc.placement.search import SIMPLICITY, Answer, Configuration, Floor, groups_of

HBM, SRAM = rack("vr-nvl72", 4), rack("groq3-lpx", 4)
MIXTURE = Routing(64, 4)
BOTH = ((HBM, 1), (SRAM, 1))

REQUESTS = {
    "dense": request(BOTH),
    "mixture of experts": request(BOTH, decoder(ffn=120_000_000, routing=MIXTURE)),
    "long context": request(BOTH, load=Load(500, 120_000, 500, 128_000)),
    "many prompts": request(BOTH, load=Load(20_000, 0, 50, 20_100)),
    "small SRAM": request(((HBM, 1), (with_sram(SRAM, 0.2), 1))),
    "slow link": request(((with_slower_link(HBM, 30), 1), (with_slower_link(SRAM, 30), 1))),
    "slow link, many batches": replace(
        request(((with_slower_link(HBM, 30), 1), (with_slower_link(SRAM, 30), 1))),
        batches=(2, 8, 32, 128),
        micro_batches=(1, 2),
    ),
    **{
        f"close batches, experts of {ffn / 1e6:g} M": replace(
            request(BOTH, decoder(ffn, MIXTURE), Load(5_000, 50_000, 500, 60_000)),
            batches=(4, 6, 8, 12),
            micro_batches=(1, 2),
        )
        for ffn in (10_000_000, 40_000_000)
    },
    "strict tier": request(BOTH, limits=Limits(1 / 900, 0.05)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_search_finds_what_trying_every_plan_finds(name: str) -> None:
    outcome = search(REQUESTS[name], ANY)
    best = max(answer.tokens_per_s for answer in every_answer(REQUESTS[name]))
    assert outcome.bound == pytest.approx(best, rel=1e-8)
    assert outcome.answer is not None
    assert outcome.answer.tokens_per_s >= best * (1 - SIMPLICITY) - 1e-6
    assert outcome.solved < outcome.candidates, "bounds closed nothing: the test shows less than it says"


def test_no_plan_is_found_where_trying_every_plan_finds_none() -> None:
    impossible = request(BOTH, limits=Limits(1 / 20_000, 10.0))
    assert next(every_answer(impossible), None) is None
    assert search(impossible, ANY).answer is None


def test_a_chosen_plan_meets_the_tier_however_close_the_tier_is() -> None:
    wanted = request(BOTH, limits=Limits(None, None))
    rates = sorted({a.objective for a in every_answer(wanted)})
    for objective in rates[:: max(1, len(rates) // 6)]:
        limits = Limits(objective / PICO + STEP_OVERHEAD_S + 1e-12, None)
        chosen = decide(replace(wanted, limits=limits)).answer
        assert limits.tpot_s is not None
        assert tpot_seconds(chosen) <= limits.tpot_s
        problem = chosen.configuration.problem(limits, ANY)
        assert evaluate(problem, chosen.assignment).feasible


def test_devices_are_not_saved_where_that_would_miss_the_tier() -> None:
    """Six SRAM parts beat four by less than what may be given up for devices, and the tier asks for it."""
    fleet = ((rack("groq3-lpx", 6), 1),)
    small = request(
        fleet, decoder(ffn=20_000_000, other=20_000_000), Load(50, 50, 500, 1_000), Limits(None, None)
    )
    wanted = replace(small, batches=(4,), micro_batches=(1,))
    relaxed = decide(wanted).answer
    best = max(every_answer(wanted), key=lambda answer: answer.tokens_per_s)
    assert _devices(relaxed) < _devices(best)
    assert best.tokens_per_s * (1 - SIMPLICITY) <= relaxed.tokens_per_s < best.tokens_per_s
    limits = Limits(tpot_seconds(best) + 1e-12, None)
    chosen = decide(replace(wanted, limits=limits)).answer
    assert _devices(chosen) == _devices(best)
    assert tpot_seconds(chosen) <= tpot_seconds(best) + 1e-12


def _devices(answer: Answer) -> int:
    return sum(group.devices for group in answer.configuration.pricing.groups)


def test_the_same_request_is_decided_alike_twice() -> None:
    first, second = (decide(REQUESTS["dense"]) for _ in range(2))
    assert (first.mode, first.answer.assignment) == (second.mode, second.answer.assignment)
    assert [o.reason for o in first.options] == [o.reason for o in second.options]


@dataclass(frozen=True)
class _Drawn:
    pricing: Pricing
    assignment: tuple[int, ...]
    batch: int
    micro_batches: int


@st.composite
def _drawn(draw: st.DrawFn, most_tokens: int = 100_000, most_requests: int = 5_000) -> _Drawn:
    pieces = draw(st.sampled_from((decoder(), decoder(ffn=120_000_000, routing=MIXTURE))))
    groups = draw(st.tuples(*(st.sampled_from(groups_of(s, 1, pieces.layers)) for s in (HBM, SRAM))))
    tokens = draw(st.integers(1, most_tokens)), draw(st.integers(0, most_tokens)), draw(st.integers(1, 4_000))
    load = Load(*tokens, 2 * most_tokens + 4_000)
    assignment = draw(st.tuples(*(st.integers(0, 1) for _ in range(2 * len(pieces.pieces)))))
    pricing = Pricing(pieces, groups, load, FP8)
    return _Drawn(pricing, assignment, draw(st.integers(1, most_requests)), draw(st.integers(1, 4)))


@settings(max_examples=50)
@given(_drawn())
def test_the_bound_is_above_no_assignment(drawn: _Drawn) -> None:
    allowed = allowed_places(drawn.pricing, ANY, memory=False)
    bound = Floor(drawn.pricing, allowed, np.array([float(drawn.batch)])).tpot(
        drawn.micro_batches, memory=False
    )
    limits = Limits(None, None, memory=False)
    problem = write_problem(drawn.pricing, drawn.batch, drawn.micro_batches, limits, allowed)
    true = evaluate(problem, drawn.assignment).objective / PICO + STEP_OVERHEAD_S
    assert float(bound[0]) <= true * (1 + 1e-12)


@settings(max_examples=50)
@given(_drawn(most_tokens=2_000, most_requests=4))
def test_the_bound_with_memory_is_above_no_assignment_that_fits(drawn: _Drawn) -> None:
    allowed = allowed_places(drawn.pricing, ANY)
    problem = write_problem(drawn.pricing, drawn.batch, drawn.micro_batches, Limits(None, None), allowed)
    verdict = evaluate(problem, drawn.assignment)
    assume(verdict.feasible)
    bound = Floor(drawn.pricing, allowed, np.array([float(drawn.batch)])).tpot(
        drawn.micro_batches, memory=True
    )
    assert float(bound[0]) <= (verdict.objective / PICO + STEP_OVERHEAD_S) * (1 + 1e-12)


@dataclass(frozen=True)
class _Clocked(Pricing):
    """Attention and FFN of a layer take the same time, crossings a share of it, all else none."""

    stage_s: float = 1e-3
    crossing_s: float = 0.0

    def decode_grid(self, batches: Array) -> Array:
        pieces = self.pieces.pieces
        seconds = [0.0, self.stage_s, self.stage_s, 0.0]
        each = [[s * p.count] * len(self.groups) for p, s in zip(pieces, seconds, strict=True)]
        return np.repeat(np.array(each)[:, :, None], len(batches), axis=2)

    def transfer_seconds(self, source: int, target: int, payload: float) -> tuple[float, float]:
        assert source != target
        return (0.0, 0.0) if payload else (self.crossing_s, 0.0)


def _clocked(crossing_s: float) -> Pricing:
    pieces: Pieces = decoder()
    groups = (Group(HBM, 1, 1, 1, 1), Group(SRAM, 1, 1, 1, 1))
    return _Clocked(pieces, groups, Load(1, 0, 10**9, 100), FP8, crossing_s=crossing_s)


@pytest.mark.parametrize(("share", "m"), list(itertools.product((0.0, 0.25, 0.5, 1.0), (1, 2, 3, 4, 5))))
def test_ping_pong_needs_two_micro_batches_and_two_more_for_each_stage_time_of_transfer(
    share: float, m: int
) -> None:
    """MegaScale-Infer, eq. 3: a pool is busy all the time from m = 2 (1 + Tc / Tf) on."""
    pricing = _clocked(share * 1e-3)
    apart = (0, 0, 0, 0, 0, 0, 1, 1)  # decode: QKV and attention on HBM, FFN and head on SRAM
    configuration = Configuration(pricing, 8, m, 0.0)
    rows = evaluate(configuration.problem(Limits(None, None), ANY, overlapped=True), apart).rows
    busy = max(rows["busy.0"], rows["busy.1"])
    assert busy == pytest.approx(m * 8 * 1e-3 * PICO, rel=1e-6)
    assert rows["path"] == pytest.approx(2 * (1 + share) * 8 * 1e-3 * PICO, rel=1e-3)
    assert (busy >= rows["path"] - 10) == (m >= 2 * (1 + share))


def _outcomes(wanted: Request) -> dict[str, bool]:
    return {option.mode: option.answer is not None for option in decide(wanted).options}


def test_every_mode_is_an_option_with_a_plan_or_a_reason() -> None:
    decision = decide(REQUESTS["small SRAM"])
    assert len(_outcomes(REQUESTS["small SRAM"])) >= 6
    assert all(option.reason for option in decision.options)
    assert sum(option.chosen for option in decision.options) == 1
    assert all(
        option.loss is not None and option.loss >= -SIMPLICITY for option in decision.options if option.answer
    )
