"""Chat templates run as Hugging Face's do, in a sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from disaggc.errors import JobError, ModelError
from disaggc.serving.chat_template import ChatTemplate, load_chat_template

HI = [{"role": "user", "content": "hi"}]


def rendered(source: str, messages: list[dict[str, Any]] | None = None) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}, "here").prompt(messages or HI)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>hi"),
        ("{{ messages[0]['role'] | upper }}", "USER"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{% for m in messages %}\n  {% if true %}\nx{% endif %}\n{% endfor %}", "x"),
        ("{{ {'a': 'é<'} | tojson }}", '{"a": "é<"}'),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hi!"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% if tools %}tools{% else %}none{% endif %}", "none"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_what_templates_count_on_is_there(source: str, text: str) -> None:
    assert rendered(source) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('Roles must alternate.') }}",
        "{{ messages[0].content + 1 }}",
        "{% for i in range(10 ** 12) %}x{% endfor %}",
    ],
)
def test_what_a_template_may_not_do_is_an_error_of_the_messages(source: str) -> None:
    with pytest.raises(JobError, match="The model's chat template does not take these messages: "):
        rendered(source)


def test_a_file_of_its_own_comes_before_the_configuration(tmp_path: Path) -> None:
    config = {"chat_template": [{"name": "default", "template": "old"}, {"name": "rag", "template": "x"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert _prompt(tmp_path) == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert _prompt(tmp_path) == "new"
    (tmp_path / "mine").write_text("mine")
    assert _prompt(tmp_path, tmp_path / "mine") == "mine"


def test_a_model_without_a_template_has_none(tmp_path: Path) -> None:
    assert load_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": null}')
    assert load_chat_template(tmp_path) is None


def test_files_that_do_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{% if %}"}')
    with pytest.raises(ModelError, match=r"tokenizer_config.json' has no chat template that Jinja reads"):
        load_chat_template(tmp_path)
    with pytest.raises(ModelError, match=r"Cannot read '.*nowhere'"):
        load_chat_template(tmp_path, tmp_path / "nowhere")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config.json' is not JSON"):
        load_chat_template(tmp_path)


def _prompt(folder: Path, own: Path | None = None) -> str:
    template = load_chat_template(folder, own)
    assert template is not None
    return template.prompt(HI)
