"""Answers over HTTP are those of ``disaggc run``, whole and streamed, as text and as ids."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion

from disaggc.runtime import Text

from .conftest import Expected
from .house import Running, refused


@pytest.fixture(scope="module")
def text(model_folder: Path) -> Text:
    return Text(model_folder)


def ids_of(answer: Completion, choice: int = 0) -> list[int]:
    ids = answer.choices[choice].token_ids  # type: ignore[attr-defined]  # our extension
    assert isinstance(ids, list)
    return ids


def test_a_text_is_completed_with_the_tokens_of_run(house: Running, expected: Expected, text: Text) -> None:
    prompt = "the story of the house"
    (tokens,) = expected(text.ids(prompt))
    answer = house.client().completions.create(
        model="tiny", prompt=prompt, max_tokens=20, extra_body={"return_token_ids": True}
    )
    assert ids_of(answer) == tokens
    assert answer.choices[0].text == text.text(tokens, special=False)
    assert answer.choices[0].finish_reason == "length"
    assert answer._request_id
    assert answer._request_id in answer.id
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(text.ids(prompt))
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (20, len(text.ids(prompt)) + 20)


def test_a_stream_says_the_same_in_pieces(house: Running) -> None:
    asked = {"model": "tiny", "prompt": "heart", "max_tokens": 60}
    whole = house.client().completions.create(**asked)  # type: ignore[call-overload]
    chunks = list(
        house.client().completions.create(  # type: ignore[call-overload]
            **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    *said, last = chunks
    assert len(said) > 1
    assert "".join(chunk.choices[0].text for chunk in said) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in said[:-1]] == [None] * (len(said) - 1)
    assert said[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_chat_is_what_its_template_says(house: Running, expected: Expected, text: Text) -> None:
    prompt = text.ids("<s><|user|>hello<|assistant|>", special=False)
    assert prompt[0] == 0, "a template's special tokens are tokens, not letters"
    (tokens,) = expected(prompt, new_tokens=12)
    answer = house.client().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.choices[0].message.content == text.text(tokens, special=False)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 12)


def test_a_streamed_chat_begins_with_its_role(house: Running) -> None:
    client = house.client()
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    whole = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], max_completion_tokens=30
    )
    message: Any = {"role": "user", "content": parts}
    stream = client.chat.completions.create(model="tiny", messages=[message], max_tokens=30, stream=True)
    deltas = [chunk.choices[0] for chunk in stream]
    assert deltas[0].delta.role == "assistant"
    assert "".join(d.delta.content or "" for d in deltas) == whole.choices[0].message.content
    assert deltas[-1].finish_reason == "length"


def test_several_prompts_have_each_their_answer(house: Running, expected: Expected) -> None:
    prompts = [[5, 6, 7], [9, 8], [100, 101, 102]]
    whole = expected(*prompts)
    client = house.client()
    answer = client.completions.create(
        model="tiny", prompt=prompts, max_tokens=20, extra_body={"return_token_ids": True}
    )
    assert [ids_of(answer, i) for i in range(3)] == whole
    streamed: list[list[int]] = [[], [], []]
    for chunk in client.completions.create(
        model="tiny", prompt=prompts, max_tokens=20, stream=True, extra_body={"return_token_ids": True}
    ):
        streamed[chunk.choices[0].index] += ids_of(chunk)
    assert streamed == whole
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_an_answer_before_it(house: Running, stream: bool) -> None:
    asked = {"model": "tiny", "prompt": "hose", "max_tokens": 40}
    whole = house.client().completions.create(**asked).choices[0].text  # type: ignore[call-overload]
    stop = whole[11:14]
    told = whole[: whole.index(stop)]
    answer = house.client().completions.create(  # type: ignore[call-overload]
        **asked, stop=["never said \u00e9", stop], stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    assert "".join(choice.text for choice in choices) == told
    assert choices[-1].finish_reason == "stop"
    if not stream:
        assert answer.usage.completion_tokens < 40


def test_a_stop_token_ends_an_answer_and_counts(house: Running, expected: Expected, text: Text) -> None:
    (tokens,) = expected([7, 8, 9])
    stop = next(t for t in tokens[3:] if t not in tokens[:3])
    before = tokens[: tokens.index(stop)]
    answer = house.client().completions.create(
        model="tiny",
        prompt=[7, 8, 9],
        max_tokens=20,
        extra_body={"stop_token_ids": [stop], "return_token_ids": True},
    )
    assert ids_of(answer) == [*before, stop]
    assert answer.choices[0].text == text.text(before, special=False)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(before) + 1


def test_many_at_once_get_each_their_own_tokens(house: Running, expected: Expected) -> None:
    draw = random.Random(3)
    prompts = [[draw.randrange(4, 500) for _ in range(draw.randint(1, 9))] for _ in range(16)]
    whole = expected(*prompts, new_tokens=40)
    found: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        chunks = house.client().completions.create(
            model="tiny",
            prompt=prompts[number],
            max_tokens=40,
            stream=True,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
        found[number] = [token for chunk in chunks for token in ids_of(chunk)]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(16)] == whole


def test_models_are_listed_with_their_tiers(house: Running) -> None:
    names = [model.id for model in house.client().models.list()]
    assert names == ["tiny", "tiny:gtc2026/premium"]
    assert house.client().models.retrieve("tiny:gtc2026/premium").owned_by == "disaggc"
    with refused(404, "model_not_found", "No model 'tinny' here"):
        house.client().models.retrieve("tinny")


@pytest.mark.parametrize(
    ("model", "tier"),
    [("tiny:gtc2026/premium", None), ("tiny:premium", None), ("tiny", "premium"), ("tiny", "auto")],
)
def test_a_tier_is_named_in_several_ways(house: Running, model: str, tier: str | None) -> None:
    extra = {} if tier is None else {"service_tier": tier}
    answer = house.client().completions.create(model=model, prompt=[5], max_tokens=1, extra_body=extra)
    assert answer.model == model
    assert answer.service_tier == "gtc2026/premium"  # type: ignore[attr-defined]  # of chats, for OpenAI
