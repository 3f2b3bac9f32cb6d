"""Attention lands on HBM and experts on SRAM because that is best, and moves when a number makes it worse.

Qwen3-235B (a graph without weights) on one Vera Rubin NVL72 and two LPX racks, 128,000 tokens of context of
which a prefix cache supplies 95 %, 200 tokens/s/user. Each test changes one number.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from made import ANY, FP8, LIBRARY, with_slower_link, with_sram

from disaggc.cost import Group
from disaggc.ir import Graph, Role
from disaggc.placement import Assignment, Pieces, Request, fold, solve
from disaggc.placement.decide import Decision, decide
from disaggc.placement.pricing import Limits, Load, Pricing
from disaggc.placement.search import Configuration
from disaggc.targets import System

HBM, SRAM = LIBRARY.system("vr-nvl72"), LIBRARY.system("groq3-lpx")
AFD = "AFD: attention on vr-nvl72, FFN on groq3-lpx"
ON_HBM = "colocated on vr-nvl72"
DECODE_ON_SRAM = "P/D: prefill on vr-nvl72, decode on groq3-lpx"
EXPERTS_GB = 94 * 128 * 3 * 4096 * 1536 / 1e9
"""Layers, experts and the three matrices of each, from Qwen3-235B's published configuration, in FP8."""

Decide = Callable[[Request], Decision]


def _load(context: int, output: int) -> Load:
    prompt = context - output
    cached = int(prompt * 0.95)
    return Load(prompt - cached, cached, output, context)


@pytest.fixture(scope="module")
def qwen(analysed: Callable[[str], Graph]) -> Pieces:
    return fold(analysed("full.qwen3_235b.moe_op"))


@pytest.fixture(scope="module")
def llama(analysed: Callable[[str], Graph]) -> Pieces:
    return fold(analysed("full.llama3_70b.torch"))


@pytest.fixture(scope="module")
def base(qwen: Pieces) -> Request:
    limits = Limits(1 / 200, 2.0)
    fleet = ((HBM, 1), (SRAM, 2))
    return Request(qwen, fleet, _load(128_000, 400), FP8, limits, batches=(32, 64, 128), micro_batches=(1,))


@pytest.fixture(scope="module")
def decided(base: Request) -> Decision:
    return decide(base)


def _reason(decision: Decision, mode: str) -> str:
    return next(option.reason for option in decision.options if option.mode == mode)


def _places(decision: Decision, role: Role) -> set[str]:
    """The systems that a role of decode is on."""
    pieces, answer = decision.request.pieces.pieces, decision.answer
    groups = answer.configuration.pricing.groups
    decode = answer.assignment[len(pieces) :]
    return {groups[place].system.name for p, place in zip(pieces, decode, strict=True) if p.role is role}


def test_attention_is_best_on_hbm_and_experts_on_sram(decided: Decision) -> None:
    assert decided.mode == AFD
    assert _places(decided, Role.CORE_ATTENTION) == {"vr-nvl72"}
    assert _places(decided, Role.EXPERTS) == {"groq3-lpx"}
    loss = next(o.loss for o in decided.options if o.mode == ON_HBM)
    assert loss is not None
    assert loss > 0.5


def test_experts_go_to_hbm_when_there_is_one_sram_rack_less(base: Request) -> None:
    decision = decide(replace(base, fleet=((HBM, 1), (SRAM, 1))))
    assert decision.mode != AFD
    assert _places(decision, Role.EXPERTS) == {"vr-nvl72"}
    assert _reason(decision, AFD) == (
        f"weights of {EXPERTS_GB:.1f} GB and caches of 0.0 kB for one request of 128,000 tokens "
        f"need 227.1 GB; "
        "1 x groq3-lpx offers 115.2 GB: 111.9 GB short"
    )


def test_experts_go_to_hbm_when_each_sram_is_a_tenth_smaller(base: Request) -> None:
    decision = decide(replace(base, fleet=((HBM, 1), (with_sram(SRAM, 0.9), 2))))
    assert decision.mode != AFD
    assert _places(decision, Role.EXPERTS) == {"vr-nvl72"}
    assert _reason(decision, AFD).endswith("2 x groq3-lpx offers 207.4 GB: 19.7 GB short")


def test_everything_is_on_hbm_when_the_link_is_eight_times_slower(base: Request) -> None:
    fleet = ((with_slower_link(HBM, 8), 1), (with_slower_link(SRAM, 8), 2))
    decision = decide(replace(base, fleet=fleet))
    assert decision.mode == ON_HBM
    reason = r"its fastest plan .* \(\d+ tokens/s/user\); the tier asks for 200: \d+% too slow"
    assert re.fullmatch(reason, _reason(decision, AFD))


@pytest.mark.parametrize(("batch", "place"), [(1024, "groq3-lpx"), (16_384, "vr-nvl72")])
def test_experts_go_to_hbm_when_the_batch_is_sixteen_times_larger(
    base: Request, batch: int, place: str
) -> None:
    crowded = replace(base, load=_load(4_000, 1_000), limits=Limits(1 / 10, 10.0), batches=(batch,))
    decision = decide(crowded)
    assert _places(decision, Role.EXPERTS) == {place}
    assert _places(decision, Role.CORE_ATTENTION) == {"vr-nvl72"}
    afd = next(option for option in decision.options if option.mode == AFD)
    assert (afd.chosen, afd.loss == 0) == (place == "groq3-lpx", place == "groq3-lpx")


@pytest.mark.parametrize(("context", "mode"), [(2_000, DECODE_ON_SRAM), (128_000, AFD)])
def test_the_whole_decode_is_on_sram_when_the_context_is_short(
    llama: Pieces, context: int, mode: str
) -> None:
    few = Request(llama, ((HBM, 1), (SRAM, 1)), _load(context, 400), FP8, Limits(1 / 100, 2.0), (8,), (1,))
    decision = decide(few)
    assert decision.mode == mode
    assert _places(decision, Role.FFN) == {"groq3-lpx"}


# One configuration, one number: what is left to change is the assignment ------------------------


def _assign(
    pieces: Pieces, groups: tuple[Group, Group], batch: int = 128, context: int = 128_000, output: int = 400
) -> Assignment | None:
    """The best assignment of one configuration, without demands of a tier."""
    pricing = Pricing(pieces, groups, _load(context, output), FP8)
    solution = solve(Configuration(pricing, batch, 1, 0.0).problem(Limits(None, None), ANY))
    return None if solution is None else solution.assignment


def _roles(pieces: Pieces, assignment: Assignment | None) -> dict[Role, int]:
    """Places of the roles of decode: 0 is HBM, 1 is SRAM."""
    assert assignment is not None
    decode = assignment[len(pieces.pieces) :]
    return {p.role: place for p, place in zip(pieces.pieces, decode, strict=True)}


def _groups(hbm: System = HBM, sram: System = SRAM) -> tuple[Group, Group]:
    return Group(hbm, 1, 1, 72, 1), Group(sram, 2, 256, 1, 2)


@pytest.fixture(scope="module")
def cut(qwen: Pieces) -> Callable[..., dict[Role, int]]:
    """Roles to places of the base configuration, with one thing changed."""

    @functools.cache
    def roles(
        hbm: System = HBM, sram: System = SRAM, batch: int = 128, context: int = 128_000
    ) -> dict[Role, int]:
        return _roles(qwen, _assign(qwen, _groups(hbm, sram), batch, context))

    return roles


def test_one_configuration_splits_attention_from_experts(cut: Callable[..., dict[Role, int]]) -> None:
    roles = cut()
    assert (roles[Role.CORE_ATTENTION], roles[Role.EXPERTS]) == (0, 1)


def test_with_less_sram_alone_the_same_configuration_keeps_experts_on_hbm(
    cut: Callable[..., dict[Role, int]],
) -> None:
    assert cut(sram=with_sram(SRAM, 0.9))[Role.EXPERTS] == 0


def test_with_a_slower_link_alone_the_same_configuration_keeps_experts_on_hbm(
    cut: Callable[..., dict[Role, int]],
) -> None:
    roles = cut(hbm=with_slower_link(HBM, 64), sram=with_slower_link(SRAM, 64))
    assert roles[Role.EXPERTS] == roles[Role.CORE_ATTENTION] == 0


def test_with_a_larger_batch_alone_the_same_configuration_keeps_experts_on_hbm(
    cut: Callable[..., dict[Role, int]],
) -> None:
    assert cut(batch=1_024, context=4_000)[Role.EXPERTS] == 1
    assert cut(batch=16_384, context=4_000)[Role.EXPERTS] == 0


def test_with_a_short_context_alone_the_same_configuration_keeps_attention_on_sram(llama: Pieces) -> None:
    groups = Group(HBM, 1, 8, 9, 1), Group(SRAM, 1, 64, 1, 4)
    long, short = (_roles(llama, _assign(llama, groups, 8, context)) for context in (128_000, 2_000))
    assert long[Role.CORE_ATTENTION] == 0
    assert long[Role.FFN] == short[Role.FFN] == short[Role.CORE_ATTENTION] == 1
