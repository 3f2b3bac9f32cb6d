"""A server for tests, on a thread of this process, and the tokenizer of a tiny model."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
from jobs import TINY
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from disaggc.serving import (
    Api,
    Choices,
    Listening,
    Rules,
    Server,
    address_of,
    bind,
    language_of,
    open_lineup,
    parts_of,
)

PATIENCE_S = 60.0
SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('No tools here.') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs.

    Attributes:
        url: Without '/v1'.
    """

    url: str
    api: Api
    server: Server

    def client(self, key: str = "none") -> openai.OpenAI:
        """OpenAI's own client, which tries nothing twice."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as answer:  # noqa: S310 - ours
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def post(self, path: str, data: bytes) -> tuple[int, dict[str, object], dict[str, str]]:
        """Status, body and headers."""
        request = urllib.request.Request(self.url + path, data)  # noqa: S310 - ours
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
                return answer.status, json.loads(answer.read()), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read()), dict(error.headers)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        _, text = self.get("/metrics")
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        known = {sample.name for sample in samples}
        assert f"disaggc:{name}" in known, sorted(known)
        return sum(
            s.value for s in samples if s.name == f"disaggc:{name}" and labels.items() <= s.labels.items()
        )


@contextmanager
def running(
    folder: Path, choices: Choices, rules: Rules | None = None, drain_s: float = 30.0
) -> Iterator[Running]:
    """A server over a plan folder, on a free port."""
    listening = Listening(port=0, drain_s=drain_s)
    parts = parts_of(folder, choices)
    started = threading.Event()
    with ExitStack() as stack:
        bound = stack.enter_context(bind(listening))
        lineup = open_lineup(parts, choices, stack, lambda _: None)
        api = Api(lineup, language_of(parts[0], choices), rules or Rules())
        server = Server(api, listening, started.set)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            assert started.wait(PATIENCE_S)
            yield Running(address_of(bound), api, server)
        finally:
            server.end()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def wait_for(fact: Callable[[], bool]) -> None:
    """Until something is so; a failure if it never is."""
    end = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(5e-3)


def write_language(folder: Path) -> None:
    """The tiny model with a tokenizer of its 512 ids beside it: bytes, and pairs of letters."""
    shutil.copy(TINY, folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *letters])}
    common = "etaoinshrdlucmfw"
    pairs = [(a, b) for a in common for b in common][: 512 - len(vocabulary)]
    vocabulary |= {a + b: len(vocabulary) + i for i, (a, b) in enumerate(pairs)}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@contextlib.contextmanager
def refused(status: int, code: str | None, message: str) -> Iterator[None]:
    """What the client makes of an error of the server."""
    try:
        yield
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        assert error.code == code, error
        assert message in error.message, error
    else:
        raise AssertionError("it was not refused")
