"""The terminal: tables that fit 100 columns, progress on a terminal only, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

WIDTH = 100


class Screen:
    """Where a command writes: results to stdout, progress and warnings to stderr."""

    def __init__(self) -> None:
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)

    def show(self, *parts: RenderableType) -> None:
        """Print results."""
        for part in parts:
            self.out.print(part)

    def say(self, text: str) -> None:
        """Print a line in which brackets are brackets."""
        self.out.print(Text(text))

    def show_json(self, data: Any) -> None:
        """Print a result for programs: one JSON document."""
        sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.err.print(Text.assemble(("warning:", "yellow"), " ", text))

    def fail(self, text: str) -> None:
        """Print an error."""
        self.err.print(Text.assemble(("error:", "bold red"), " ", text))

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """A bar, the time and what is being done, on a terminal; nothing in a pipe."""
        if not self.err.is_terminal:
            yield lambda _: None
            return
        columns = (SpinnerColumn(), BarColumn(bar_width=20), TimeElapsedColumn(), _Doing())
        with Progress(*columns, console=self.err, transient=True) as bars:
            task = bars.add_task("starting", total=None)

            def tell(text: str) -> None:
                done, total = fraction(text)
                bars.update(task, description=text, completed=done, total=total)

            yield tell


class _Doing(ProgressColumn):
    """What is being done; brackets are brackets."""

    def render(self, task: Task) -> Text:
        """The text as told."""
        return Text(task.description)


def fraction(text: str) -> tuple[int, int | None]:
    """How much is done by a text that says 'configuration 3 of 1,200'; no total where it does not."""
    found = re.search(r"([\d,]*\d) of ([\d,]*\d)", text)
    if found is None:
        return 0, None
    done, total = (int(number.replace(",", "")) for number in found.groups())
    return done, total


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> Table:
    """A table; the first ``left`` columns are flush left, the others right."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None)
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def amount(value: float, unit: str) -> str:
    """A number with an SI prefix: 1.5 GB, 320 Gflop."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def wrapped(words: str, indent: str = "") -> Text:
    """A paragraph in lines of a hundred columns, on a terminal and in a pipe; brackets are brackets."""
    return Text(
        textwrap.fill(
            words,
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def compact(value: float) -> str:
    """A large number that is read at a glance: 30,046 and 6.14 M."""
    return f"{value:,.0f}" if abs(value) < 1e6 else amount(value, "").strip()


def dollars(value: float) -> str:
    """US dollars to the cent where cents matter: $1,402, $5.06, $0.0182."""
    if value < 0:
        return f"-{dollars(-value)}"
    if value >= 100:
        return f"${value:,.0f}"
    return f"${value:,.2f}" if value >= 1 else f"${value:.3g}"


def duration(us: float) -> str:
    """A time of so many microseconds, in the unit that suits it: 4.1 us, 1.86 ms, 2.5 s."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if abs(us) >= size:
            return f"{us / size:.3g} {unit}"
    return f"{us:.3g} us"


def _console(stream: Any) -> Console:
    terminal = stream.isatty()
    return _Console(file=stream, width=None if terminal else WIDTH, highlight=False, soft_wrap=not terminal)


class _Console(Console):
    """A console that leaves a closed pipe to the command."""

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles a BrokenPipeError; its own way out is exit code 1."""
        raise BrokenPipeError


def figure(value: float | None) -> str:
    """Whole numbers from a thousand on, four digits below."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
