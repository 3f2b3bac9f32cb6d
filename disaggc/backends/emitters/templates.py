"""Renders templates in which every value is quoted for the language that it lands in.

A template is text with ``{{ value }}``; what its file name says ('deployment.yaml.j2', 'launch.sh.j2')
decides how each value is written, so that a template cannot forget: a name that holds quotes, newlines,
``$(...)`` or ``{{ }}`` stays one value. Template text itself is trusted, values never are.

- yaml, json: as JSON, which is YAML too, with everything escaped that a YAML reader would refuse;
- sh, sbatch: as one word of bash, on one line, so that a value may also stand in a comment;
- md: as code, on one line.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from disaggc.library import shelf

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_SIMPLE_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def render(path: str, values: Mapping[str, object]) -> str:
    """The text of a template.

    Args:
        path: Relative to plans/templates, such as 'dynamo/deployment.yaml.j2'.
        values: What the template names; a name that is missing is our own fault.
    """
    return _environment(path.removesuffix(".j2").rpartition(".")[2]).get_template(path).render(values)


@functools.cache
def _environment(language: str) -> jinja2.Environment:
    return jinja2.Environment(  # noqa: S701 - values are quoted by finalize, for no language is HTML
        loader=jinja2.FileSystemLoader(shelf("plans") / "templates"),
        undefined=jinja2.StrictUndefined,
        finalize=functools.partial(_written, _WRITERS[language]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _written(writer: Callable[[Any], str], value: object) -> str:
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, with the name that is missing
    return writer(value)


def json_text(value: object) -> str:
    """A value as JSON that every YAML reader takes for the same value."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def shell_word(value: object) -> str:
    """A value as one word of bash, without a line break."""
    text = str(value)
    if not _UNPRINTABLE.search(text):
        return shlex.quote(text)
    return f"$'{''.join(map(_shell_character, text.replace(chr(0), '')))}'"


def _shell_character(character: str) -> str:
    if character in _SIMPLE_ESCAPES:
        return _SIMPLE_ESCAPES[character]
    return f"\\u{ord(character):04x}" if _UNPRINTABLE.match(character) else character


def code_span(value: object) -> str:
    """A value as Markdown code on one line."""
    text = _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", str(value))
    text = text.replace("|", "\\|")  # it would end the cell of a table, in code, too
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "yaml": json_text,
    "json": json_text,
    "sh": shell_word,
    "sbatch": shell_word,
    "md": code_span,
}
