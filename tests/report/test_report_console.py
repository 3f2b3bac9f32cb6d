import io
import json

import pytest
from rich.console import Console
from rich.text import Text

from disaggc.report import Screen
from disaggc.report.console import WIDTH, amount, compact, dollars, duration, fraction, table

HOSTILE = (
    "[[tier]] gives no ttft_ms",
    "Set weights = 'fp8' in [model]",
    "at [1, 2] and [/]",
    "C:\\[bold]x",
    "a\\",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_brackets_in_a_message_are_brackets(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.fail(text)
    screen.warn(text)
    screen.say(text)
    screen.show(table("title", ("cell",), [(text,)]))
    printed = capsys.readouterr()
    assert printed.err == f"error: {text}\nwarning: {text}\n"
    assert printed.out.splitlines()[0] == text
    assert text in printed.out.splitlines()[-1]


def test_results_go_to_stdout_and_everything_else_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.show("result")
    screen.warn("careful")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("result\n", "warning: careful\n")


def test_progress_is_quiet_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().progress() as tell:
        tell("pass segment")
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pass segment", (0, None)),
        ("AFD: configuration 3 of 1,200", (3, 1200)),
        ("reading the model", (0, None)),
    ],
)
def test_a_text_that_counts_moves_the_bar(text: str, found: tuple[int, int | None]) -> None:
    assert fraction(text) == found


def test_progress_on_a_terminal_says_what_is_being_done_and_goes_away() -> None:
    screen, drawn = Screen(), io.StringIO()
    screen.err = Console(file=drawn, force_terminal=True, width=80)
    with screen.progress() as tell:
        tell("at [1, 2]: configuration 3 of 4")
    shown = Text.from_ansi(drawn.getvalue()).plain
    assert "at [1, 2]: configuration 3 of 4" in shown
    assert drawn.getvalue().endswith("\x1b[2K")


def test_a_wide_table_is_folded_to_its_width(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show(table("wide", ("name", "value"), [("long " * 60, 3)]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert max(len(line) for line in lines) <= WIDTH == 100


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show_json({"name": "größe", "values": [1, 2.5, None]})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": "größe", "values": [1, 2.5, None]}
    assert "größe" in printed


AMOUNTS = {
    (0, "B"): "0 B",
    (999, "B"): "999 B",
    (1_536, "B"): "1.54 kB",
    (2.5e9, "B"): "2.5 GB",
    (3e15, "F"): "3 PF",
}


@pytest.mark.parametrize("case", AMOUNTS)
def test_an_amount_has_three_digits_and_a_prefix(case: tuple[float, str]) -> None:
    assert amount(*case) == AMOUNTS[case]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (duration(0.5), "0.5 us"),
        (duration(1_858), "1.86 ms"),
        (duration(2.5e6), "2.5 s"),
        (compact(30_046.4), "30,046"),
        (compact(6.137e6), "6.14 M"),
        (dollars(1402.4), "$1,402"),
        (dollars(5.058), "$5.06"),
        (dollars(0.01823), "$0.0182"),
    ],
)
def test_numbers_are_told_as_people_read_them(told: str, words: str) -> None:
    assert told == words
