from collections.abc import Callable
from dataclasses import replace

import pytest
from jobs import tiny_job
from made import LIBRARY

from disaggc.errors import DisaggcError, JobError, UnknownTargetError
from disaggc.ir import Graph
from disaggc.placement.request import request_of, resolve_tier
from disaggc.plans import Job, TierSpec

SPELT_OUT = TierSpec(context_tokens=4_000, ttft_ms=500.0, tokens_per_s_per_user=50.0)


def test_a_tier_takes_what_it_does_not_say_from_the_declared_one() -> None:
    tier = resolve_tier(TierSpec(like="gtc2026/premium", ttft_ms=300.0), LIBRARY)
    assert (tier.name, tier.ttft_ms, tier.context_tokens) == ("gtc2026/premium", 300.0, 400_000)
    assert (tier.tokens_per_s_per_user, tier.price_usd_per_mtok) == (400.0, 45.0)


def test_a_prompt_is_as_long_as_the_answer_leaves_room_for() -> None:
    assert resolve_tier(SPELT_OUT, LIBRARY).input_tokens == 3_000


def test_a_price_of_nothing_is_kept() -> None:
    assert (
        resolve_tier(TierSpec(like="gtc2026/premium", price_usd_per_mtok=0.0), LIBRARY).price_usd_per_mtok
        == 0
    )


WRITE_IT = "Write it, or like = 'gtc2026/premium' to take a declared one."
SHORTEN = "Shorten the request or lengthen the context."
REFUSED: dict[str, tuple[TierSpec, type[DisaggcError], str]] = {
    "unknown tier": (
        TierSpec(like="gtc2026/premum"),
        UnknownTargetError,
        "No target named 'gtc2026/premum' in targets/tiers. Did you mean 'gtc2026/premium'?",
    ),
    "no speed": (
        replace(SPELT_OUT, tokens_per_s_per_user=None),
        JobError,
        "[[tier]] gives no tokens_per_s_per_user. " + WRITE_IT,
    ),
    "request longer than its context": (
        replace(SPELT_OUT, name="chat", input_tokens=3_500),
        JobError,
        "[[tier]] chat: 3,500 input and 1,000 output tokens do not fit context_tokens = 4,000. " + SHORTEN,
    ),
    "answer longer than its context": (
        replace(SPELT_OUT, name="chat", output_tokens=5_000),
        JobError,
        "[[tier]] chat: 0 input and 5,000 output tokens do not fit context_tokens = 4,000. " + SHORTEN,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tier_that_cannot_be_resolved_is_refused(name: str) -> None:
    spec, error, message = REFUSED[name]
    with pytest.raises(error) as caught:
        resolve_tier(spec, LIBRARY)
    assert str(caught.value) == message


def test_a_prefix_hit_splits_the_prompt_into_cached_and_new(analysed: Callable[[str], Graph]) -> None:
    job = tiny_job()
    tier = resolve_tier(job.tier[0], LIBRARY)
    load = request_of(job, tier, analysed("qwen3_moe.gqa_moe"), LIBRARY).load
    assert (load.cached_tokens, load.input_tokens, load.output_tokens) == (376_200, 3_800, 4_000)


def _refusal(job: Job, graph: Graph) -> str:
    with pytest.raises(DisaggcError) as caught:
        request_of(job, resolve_tier(job.tier[0], LIBRARY), graph, LIBRARY)
    return str(caught.value)


def test_an_unknown_number_format_is_refused_with_the_nearest(analysed: Callable[[str], Graph]) -> None:
    job = tiny_job()
    wrong = replace(job, model=replace(job.model, kv="fp88"))
    message = "No number format named 'fp88'. Did you mean 'fp8'?"
    assert _refusal(wrong, analysed("qwen3_moe.gqa_moe")) == message


def test_an_unknown_system_is_refused_with_the_nearest(analysed: Callable[[str], Graph]) -> None:
    wrong = replace(tiny_job(), fleet={"groq-lpx": 1})
    message = "No target named 'groq-lpx' in targets/systems. Did you mean 'groq3-lpx'?"
    assert _refusal(wrong, analysed("qwen3_moe.gqa_moe")) == message


def test_a_graph_without_a_stream_of_tokens_is_refused(analysed: Callable[[str], Graph]) -> None:
    graph = replace(analysed("qwen3_moe.gqa_moe"), workload=None)
    assert "has no stream of tokens from an embedding to logits" in _refusal(tiny_job(), graph)
