"""Messages of a chat to a prompt, by the Jinja template that models come with.

Such a template is a program of somebody else's, so it is run in Jinja's sandbox, with the settings and
the few names that Hugging Face's templates count on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from disaggc.errors import JobError, ModelError

FILE = "chat_template.jinja"
CONFIG = "tokenizer_config.json"


class ChatTemplate:
    """A model's chat template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], where: str) -> None:
        """Compile it.

        Args:
            source: The template.
            special_tokens: Names to spellings ('bos_token' to '<s>'), which templates may use.
            where: Its file, for messages.

        Raises:
            ModelError: It is no template.
        """
        self._special_tokens = dict(special_tokens)
        self._where = where
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise ModelError(
                f"'{where}' has no chat template that Jinja reads: {error}. Fetch it again."
            ) from error

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text that a chat comes to, up to where the answer begins.

        Raises:
            JobError: The template does not take such messages.
        """
        try:
            return _rendered(self._template, messages, self._special_tokens)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise JobError(f"The model's chat template does not take these messages: {error}") from error


def load_chat_template(folder: Path, own: Path | None = None) -> ChatTemplate | None:
    """The chat template of a model; None if it has none.

    Args:
        folder: The model's folder.
        own: A template to use instead.

    Raises:
        ModelError: A file does not read.
    """
    config = read_json(folder / CONFIG)
    special = {name: found for name in config if (found := spelling(config, name)) and "_token" in name}
    for path in (own, folder / FILE):
        if path is not None and (path is own or path.is_file()):
            return ChatTemplate(_read(path), special, str(path))
    source = _default(config.get("chat_template"))
    return ChatTemplate(source, special, str(folder / CONFIG)) if source else None


def read_json(path: Path) -> dict[str, Any]:
    """What is in a JSON file; nothing if there is none.

    Raises:
        ModelError: It does not read.
    """
    if not path.is_file():
        return {}
    try:
        data = json.loads(_read(path))
    except ValueError as error:
        raise ModelError(f"'{path}' is not JSON: {error}. Fetch it again.") from error
    return data if isinstance(data, dict) else {}


def spelling(config: Mapping[str, Any], name: str) -> str:
    """How a configuration spells a special token: as a text, or as one with attributes; '' if not at all."""
    token = config.get(name)
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def _default(templates: object) -> str:
    """The only template, or the one named 'default' of several."""
    if isinstance(templates, list):
        named = {t.get("name"): t.get("template") for t in templates if isinstance(t, dict)}
        templates = named.get("default")
    return templates if isinstance(templates, str) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"Cannot read '{path}': {error}. Name another file, or fetch it again.") from error


def _rendered(template: Template, messages: Sequence[Mapping[str, Any]], special: Mapping[str, str]) -> str:
    return template.render(messages=list(messages), add_generation_prompt=True, tools=None, **special)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


class _Generation(Extension):
    """``{% generation %}`` marks what a model says, for training; here it stands for what is in it."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
