"""What cannot be answered is refused, in OpenAI's form, and disturbs nobody."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from disaggc.runtime import Execution
from disaggc.serving import Choices, Rules

from .conftest import Expected
from .house import PATIENCE_S, Running, refused, running

GOOD: dict[str, Any] = {"model": "tiny", "prompt": [5, 6], "max_tokens": 2}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def error_of(body: dict[str, object]) -> dict[str, Any]:
    error = body["error"]
    assert isinstance(error, dict)
    assert error.keys() == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"max_token": 2}, "max_token", "Unknown key 'max_token'. Did you mean 'max_tokens'?"),
        ({"max_tokens": "2"}, "max_tokens", "Expected a whole number, got '2'"),
        ({"max_tokens": True}, "max_tokens", "True"),
        ({"max_tokens": 0}, "max_tokens", "Cannot generate 0 tokens. Ask for 1 or more."),
        ({"temperature": 0.7}, "temperature", "'temperature' of 0.7 asks for sampling"),
        ({"top_p": 0.9}, "top_p", "asks for sampling"),
        ({"frequency_penalty": 1, "temperature": 0}, "frequency_penalty", "asks for sampling"),
        ({"n": 2}, "n", "'n' of 2 is not served here"),
        ({"logprobs": 0}, "logprobs", "'logprobs' of 0 is not served here"),
        ({"echo": True}, "echo", "'echo' of true is not served here"),
        ({"prompt": None}, "prompt", "The body lacks 'prompt'"),
        ({"prompt": []}, "prompt", "There is no prompt"),
        ({"prompt": [[5], []]}, "prompt", "There is no prompt, or an empty one"),
        ({"prompt": ""}, None, "comes to no token"),
        ({"prompt": {"a": 1}}, "prompt", "must be text or token ids"),
        ({"prompt": [1.5, 2]}, "prompt", "Token ids are whole numbers from 0, not '1.5'"),
        ({"prompt": [-1]}, "prompt", "Token ids are whole numbers from 0, not '-1'"),
        ({"prompt": [2**40]}, "prompt", "Token ids are whole numbers"),
        ({"prompt": [5, 600]}, None, "Token id 600 is not in the model's vocabulary"),
        ({"prompt": "half \ud800"}, None, "half of a surrogate pair"),
        ({"prompt": [[5]] * 200}, "prompt", "200 prompts are too many"),
        ({"stop": ["a", ""]}, "stop", "none of them empty"),
        ({"stop": ["a"] * 20}, "stop", "20 stops are too many"),
        ({"stop_token_ids": "3"}, "stop_token_ids", "must be a list of token ids"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "Set stream to true"),
        ({"service_tier": "gold"}, "service_tier", "No tier 'gold' here. Known names: gtc2026/premium."),
    ],
)
def test_a_body_that_makes_no_sense_is_told_so(
    house: Running, change: dict[str, Any], param: str | None, message: str
) -> None:
    status, body, _ = house.post("/v1/completions", json.dumps({**GOOD, **change}).encode())
    error = error_of(body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"messages": None}, "messages", "must be a list of at least one message"),
        ({"messages": [{"content": "hi"}]}, "messages.0", "must be an object with a role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
            "a part that is no text",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, None, "No tools here."),
        ({"tools": [{"type": "function"}]}, "tools", "is not served here"),
        ({"response_format": {"type": "json_object"}}, "response_format", "is not served here"),
        ({"logprobs": True}, "logprobs", "is not served here"),
    ],
)
def test_a_chat_that_makes_no_sense_is_told_so(
    house: Running, change: dict[str, Any], param: str | None, message: str
) -> None:
    status, body, _ = house.post("/v1/chat/completions", json.dumps({**CHAT, **change}).encode())
    error = error_of(body)
    assert (status, error["param"]) == (400, param)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is not JSON"),
        (b"[1, 2]", "must be a JSON object, not list"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"prompt": [5], "temperature": NaN}', "NaN is no number in JSON"),
        (b'{"prompt": ' + b"[" * 100_000, "is not JSON"),
        (b'{"prompt": [1' + b"0" * 5000 + b"]}", "is not JSON"),
        (b'{"model": "\\ud800", "prompt": [5]}', "No model '?' here"),
    ],
)
def test_bytes_that_are_no_request_are_told_so(house: Running, data: bytes, message: str) -> None:
    status, body, _ = house.post("/v1/completions", data)
    assert status in (400, 404)
    assert message in error_of(body)["message"]


def test_more_tokens_than_fit_are_refused_as_openai_does(house: Running) -> None:
    with refused(400, "context_length_exceeded", "at most 100000 tokens a request"):
        house.client().completions.create(model="tiny", prompt=[5, 6], max_tokens=100_000)
    status, body, _ = house.post("/v1/completions", json.dumps({"prompt": [5] * 100_001}).encode())
    assert (status, error_of(body)["code"]) == (400, "context_length_exceeded")
    assert "this one has 100001 and asks for 1 more" in error_of(body)["message"]


def test_an_unknown_model_names_the_nearest(house: Running) -> None:
    with refused(404, "model_not_found", "No model 'tini' here. Did you mean 'tiny'?"):
        house.client().completions.create(model="tini", prompt=[5])


def test_unknown_paths_and_methods_are_errors_of_the_same_form(house: Running) -> None:
    status, body = house.get("/v1/embeddings")
    assert status == 404
    assert "GET /v1/embeddings" in error_of(json.loads(body))["message"]
    assert house.get("/v1/completions")[0] == 405


def test_neutral_sampling_values_and_what_clients_add_are_taken(house: Running) -> None:
    neutral = {"temperature": 0, "top_p": 0.4, "seed": 3, "n": 1, "presence_penalty": 0.0, "user": "me"}
    status, _, _ = house.post("/v1/completions", json.dumps({**GOOD, **neutral}).encode())
    assert status == 200
    added = {
        "metadata": {"a": "b"},
        "store": False,
        "tool_choice": "none",
        "response_format": {"type": "text"},
    }
    assert house.post("/v1/chat/completions", json.dumps({**CHAT, **added}).encode())[0] == 200


def test_a_poisoned_request_disturbs_no_stream(house: Running, expected: Expected) -> None:
    (whole,) = expected([11, 12, 13], new_tokens=300)
    stream = house.client().completions.create(
        model="tiny",
        prompt=[11, 12, 13],
        max_tokens=300,
        stream=True,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    found = list(next(iter(stream)).choices[0].token_ids)  # type: ignore[attr-defined]
    with refused(400, None, "Token id 511511 is not in the model's vocabulary"):
        house.client().completions.create(model="tiny", prompt=[12, 13, 511511], max_tokens=5)
    for chunk in stream:
        found += chunk.choices[0].token_ids  # type: ignore[attr-defined]
    assert found == whole


# servers of their own -----------------------------------------------------------------------------


def test_a_key_is_asked_for_where_there_is_one(plan_folder: Path, model_folder: Path) -> None:
    choices = Choices(model_folder=model_folder, name="tiny")
    with running(plan_folder, choices, Rules(api_key="secret", max_body_bytes=1000)) as house:
        assert house.client("secret").models.list().data
        for key in ("wrong", "secre"):
            with refused(401, "invalid_api_key", "The API key is missing or wrong"):
                house.client(key).completions.create(model="tiny", prompt=[5])
        assert house.get("/v1/models")[0] == 401
        assert house.get("/health")[0] == house.get("/ready")[0] == house.get("/metrics")[0] == 200
        large = urllib.request.Request(  # noqa: S310 - ours
            f"{house.url}/v1/completions",
            json.dumps({"prompt": [5] * 5000}).encode(),
            {"Authorization": "Bearer secret"},
        )
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(large, timeout=PATIENCE_S)  # noqa: S310 - ours


def test_without_a_tokenizer_ids_go_in_and_ids_come_out(plan_folder: Path, expected: Expected) -> None:
    with running(plan_folder, Choices(execution=Execution(micro_batch=2))) as house:
        client, (name, _) = house.client(), house.client().models.list().data
        answer = client.completions.create(model=name.id, prompt=[5, 6, 7], max_tokens=20)
        assert answer.choices[0].token_ids == expected([5, 6, 7])[0]  # type: ignore[attr-defined]
        assert answer.choices[0].text == ""
        with refused(400, None, "prompts must be token ids"):
            client.completions.create(model=name.id, prompt="text")
        with refused(400, None, "has no text to stop at"):
            client.completions.create(model=name.id, prompt=[5], stop="a")
        with refused(400, None, "This model cannot chat: there is no tokenizer.json in its folder"):
            client.chat.completions.create(model=name.id, messages=[{"role": "user", "content": "hi"}])


def test_sampling_may_be_ignored_where_the_operator_says_so(plan_folder: Path, expected: Expected) -> None:
    with running(plan_folder, Choices(), Rules(ignore_sampling=True)) as house:
        body = {"prompt": [5, 6, 7], "max_tokens": 20, "temperature": 0.7, "top_p": 0.9, "top_k": 40}
        status, answer, _ = house.post("/v1/completions", json.dumps(body).encode())
        assert status == 200
        assert answer["choices"][0]["token_ids"] == expected([5, 6, 7])[0]  # type: ignore[index]
        status, _, _ = house.post("/v1/completions", json.dumps({**body, "n": 2}).encode())
        assert status == 400
