"""Reads pages of docs/ and runs what they show: files are written, commands run, outputs compared.

- A block of ``toml`` whose first line is a comment with a path ('# job.toml') is a file.
- A block of ``console`` holds commands ('$ disaggc ...'; one that goes on in the next line ends with a
  backslash) and what they print; '...' stands for anything, in a line or for lines. A command may end with
  '| head -N', and a line '(exit code 3)' says with what it ends, if not with 0.
- Blocks of ``python`` run one after another.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from disaggc.cli import main

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXIT = re.compile(r"\(exit code (\d)\)")


@dataclass(frozen=True, slots=True)
class Shown:
    """A command and what the page says it prints."""

    command: str
    output: str


def blocks(text: str, kind: str) -> Iterator[str]:
    """The fenced blocks of one kind."""
    return (body for found, body in BLOCK.findall(text) if found == kind)


def play(text: str) -> Iterator[tuple[Shown, str]]:
    """Writes files and runs commands in the order of a page; each with what it printed."""
    for kind, body in BLOCK.findall(text):
        if kind == "toml":
            _write(body)
        if kind == "console":
            for shown in commands(body):
                yield shown, run(shown.command)


def commands(body: str) -> list[Shown]:
    """The commands of a console block."""
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]
    found = []
    for part in parts:
        joined = part.replace("\\\n", " ")
        command, _, output = joined.partition("\n")
        found.append(Shown(command, output.rstrip("\n")))
    return found


def run(command: str) -> str:
    """What a command of this package prints, its exit code last where it is not 0."""
    command, _, head = command.partition("| head -")
    words = shlex.split(command)
    assert words[0] == "disaggc", command
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words[1:])
    lines = [line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")]
    shown = lines[: int(head)] if head else lines
    return "\n".join(shown if code == 0 else [*shown, f"(exit code {code})"])


def agrees(output: str, printed: str) -> bool:
    """Whether what was printed is what the page shows, dots standing for anything."""
    pattern = "".join(".*" if part == "..." else re.escape(part) for part in re.split(r"(\.\.\.)", output))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def updated(text: str, played: list[tuple[Shown, str]]) -> str:
    """The page with what was printed in place of what did not agree."""
    for shown, printed in played:
        if not agrees(shown.output, printed) and "..." not in shown.output:
            before, after = (f"{output}\n" if output else "" for output in (shown.output, printed))
            text = _replaced(text, shown.command, before, after)
    return text


def _replaced(text: str, command: str, before: str, after: str) -> str:
    start = text.index("\n", text.index("$ " + command.split("  ")[0]))
    while text[start - 1] == "\\":
        start = text.index("\n", start + 1)
    assert text[start + 1 :].startswith(before), command
    return text[: start + 1] + after + text[start + 1 + len(before) :]


def _write(body: str) -> None:
    first, _, _ = body.partition("\n")
    found = re.fullmatch(r"# ([\w./-]+\.toml)", first)
    if found is not None:
        path = Path(found[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
