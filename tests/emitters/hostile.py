"""Texts that break out of what does not quote them, and bash to read scripts back with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

TEXTS = (
    "a'b",
    'a"b',
    "$(touch owned)",
    "`touch owned`",
    "${HOME}",
    "a\n---\nkind: Pod",
    "a\r\nb\tc",
    "{{ 1 + 1 }}",
    "{% raw %}",
    "*anchor",
    "!!python/object:os.system",
    "yes",
    "1e3",
    "~",
    "- x",
    "#comment",
    "a: b",
    "\\",
    "-n",
    " leading",
    "é 漢 🙂",
    "a\u2028b\u0085c\u0007d",
    "|| rm -rf ~; #",
    "",
)

NAMES = tuple(text for text in TEXTS if text and not text.startswith("-"))
"""Those that a model can be called; one that begins with a dash is refused."""

BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="no bash here")


def bash(script: Path, folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a script, with ``folder``/bin in front of the path, in ``folder``."""
    assert BASH is not None
    own = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", **(environment or {})}
    subprocess.run([BASH, str(script)], check=True, cwd=folder, env=own, timeout=60)  # noqa: S603 - ours


def stub(folder: Path, name: str, body: str) -> None:
    """A command ``name`` in ``folder``/bin that does what ``body`` says."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{BASH}\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


RECORD = 'printf "%s\\0" "$@" >>"$RECORD"; printf "\\1" >>"$RECORD"'
"""Notes the arguments of a call, each ended by NUL, and the call by SOH."""


def calls(record: Path) -> list[list[str]]:
    """The arguments of each call that was noted."""
    text = record.read_bytes().decode("utf-8")
    return [call.split("\0")[:-1] for call in text.split("\1")[:-1]]
