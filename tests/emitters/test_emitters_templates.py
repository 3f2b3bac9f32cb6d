"""What a template writes is read back as the same value, whatever the value is."""

from __future__ import annotations

import json
import subprocess

import jinja2
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from disaggc.backends.emitters import templates
from disaggc.backends.emitters.templates import code_span, json_text, shell_word

from .hostile import BASH, TEXTS, needs_bash

ANY_TEXT = st.text(max_size=40)


@pytest.mark.parametrize("text", TEXTS)
def test_yaml_and_json_read_back_what_was_written(text: str) -> None:
    assert yaml.safe_load(f"- {json_text(text)}\n") == [text]
    assert yaml.safe_load(f"{json_text(text)}: 1\n") == {text: 1}
    assert json.loads(json_text(text)) == text


@given(ANY_TEXT)
def test_any_text_survives_yaml(text: str) -> None:
    assert yaml.safe_load(f"key: {json_text(text)}  # end\n") == {"key": text}


@needs_bash
def test_bash_reads_back_what_was_written() -> None:
    script = f"printf '%s\\0' {' '.join(shell_word(text) for text in TEXTS)}"
    command, environment = [str(BASH), "-c", script], {"LC_ALL": "C.UTF-8"}
    told = subprocess.run(command, check=True, capture_output=True, env=environment)  # noqa: S603 - ours
    assert told.stdout.decode("utf-8").split("\0")[:-1] == list(TEXTS)


@given(ANY_TEXT)
def test_a_shell_word_is_one_line(text: str) -> None:
    assert len(shell_word(text).splitlines()) == 1


@given(ANY_TEXT)
def test_markdown_code_is_one_line_and_one_cell(text: str) -> None:
    written = code_span(text)
    assert len(written.splitlines()) == 1
    assert "|" not in written.replace("\\|", "")


def test_a_template_cannot_write_a_value_unquoted() -> None:
    environment = templates._environment("sh")
    assert environment.from_string("run {{ x }}").render(x="a; b") == "run 'a; b'"
    assert environment.from_string("run {{ x ~ '.json' }}").render(x="$(x)") == "run '$(x).json'"


def test_values_are_never_templates_themselves() -> None:
    environment = templates._environment("yaml")
    assert environment.from_string("a: {{ x }}").render(x="{{ 7 * 7 }}") == 'a: "{{ 7 * 7 }}"'


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        templates._environment("yaml").from_string("a: {{ x }}").render()
