import json

import pytest

from disaggc.report import Screen
from disaggc.report.console import WIDTH, amount, table

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
