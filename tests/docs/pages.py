"""Reads pages of docs/ and runs what they show: files are written, commands run, outputs compared.

- A block of ``toml`` or ``python`` whose first line is a comment with a path ('# job.toml') is a file.
- A block of ``console`` holds commands ('$ disaggc ...'; one that goes on in the next line ends with a
  backslash) and what they print; '...' stands for anything, in a line or for lines. A command may end with
  '| head -N' or '| grep TEXT', and a line '(exit code 3)' says with what it ends, if not with 0.
- 'python FILE.py' and 'curl -s URL' are commands, too. One that ends with '&' runs until 'kill %1'; what the
  page calls port 8000 is any free one.
- Other blocks of ``python`` run one after another.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import disaggc
from disaggc.cli import main

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXIT = re.compile(r"\(exit code (\d)\)")
PORT = "8000"


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
    with Shell() as shell:
        for kind, body in BLOCK.findall(text):
            if kind in ("toml", "python"):
                _write(shell.real(body))
            if kind == "console":
                for shown in commands(body):
                    yield shown, shell.run(shown.command)


def commands(body: str) -> list[Shown]:
    """The commands of a console block."""
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]
    found = []
    for part in parts:
        joined = part.replace("\\\n", " ")
        command, _, output = joined.partition("\n")
        found.append(Shown(command, output.rstrip("\n")))
    return found


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return str(found.getsockname()[1])


@dataclass
class Shell:
    """Runs commands; one of them may stay in the background."""

    job: subprocess.Popen[str] | None = None
    port: str = field(default_factory=_free_port)

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        if self.job is not None:
            self.job.kill()
            self.job.communicate()

    def real(self, text: str) -> str:
        """A page's text with the port that is used here."""
        return re.sub(rf"\b{PORT}\b", self.port, text)

    def run(self, command: str) -> str:
        """What a command prints."""
        return re.sub(rf"\b{self.port}\b", PORT, self._run(self.real(command)))

    def _run(self, command: str) -> str:
        whole, _, wanted = command.partition("| grep ")
        if wanted:
            return "\n".join(line for line in self._run(whole).split("\n") if line.startswith(wanted))
        words = shlex.split(command)
        if words[0] == "python":
            return _output([sys.executable, *words[1:]])
        if words[:2] == ["curl", "-s"]:
            with urllib.request.urlopen(words[2], timeout=30) as answer:  # noqa: S310 - our own server
                return str(answer.read().decode()).rstrip("\n")
        if words == ["kill", "%1"]:
            return self._end()
        return self._begin(words[1:-1]) if words[-1] == "&" else run(command)

    def _begin(self, arguments: list[str]) -> str:
        """Start a server, up to the line that says where it is."""
        root = str(Path(disaggc.__file__).parents[1])  # the one that is tested, wherever it lies
        self.job = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "disaggc.cli", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert self.job.stdout is not None
        lines: list[str] = []
        for line in self.job.stdout:
            lines.append(line.rstrip())
            if "http://" in line:
                break
        return "\n".join(lines)

    def _end(self) -> str:
        assert self.job is not None
        self.job.send_signal(signal.SIGTERM)
        rest, _ = self.job.communicate(timeout=60)
        assert self.job.returncode == 0
        return rest.rstrip("\n")


def _output(command: list[str]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    return (ran.stdout + ran.stderr).rstrip("\n")


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
    found = re.fullmatch(r"# ([\w./-]+\.(?:toml|py))", first)
    if found is not None:
        path = Path(found[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
