"""Pages of docs/ do what they say: their commands run, their outputs come out, their links have ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jobs import EXAMPLES, REPOSITORY, TINY
from pages import Shown, agrees, blocks, commands, play, updated

from disaggc.plans.reference import plan_reference

DOCS = REPOSITORY / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
RUN = [name for name in PAGES if list(blocks((DOCS / name).read_text(encoding="utf-8"), "console"))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example model where the pages say it is."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / TINY.name).write_bytes(TINY.read_bytes())
    (tmp_path / "tiny_moe.toml").write_bytes((EXAMPLES / "tiny_moe.toml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", RUN)
def test_commands_print_what_the_page_shows(name: str, update_golden: bool) -> None:
    path = DOCS / name
    text = path.read_text(encoding="utf-8")
    played = list(play(text))
    if update_golden:
        path.write_text(updated(text, played), encoding="utf-8")
        played = [(s, p) for s, p in played if "..." in s.output]
    for shown, printed in played:
        assert agrees(shown.output, printed), f"$ {shown.command}\n{printed}"


@pytest.mark.usefixtures("here")
def test_python_of_the_api_page_runs() -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    code = "\n".join(blocks(text, "python"))
    assert code.count("import") > 3
    exec(compile(code, "docs/python.md", "exec"), {})  # noqa: S102 - our own page


def test_the_plan_format_is_the_schemas() -> None:
    assert (DOCS / "plan-format.md").read_text(encoding="utf-8") == plan_reference(), (
        "python -m disaggc.plans.reference > docs/plan-format.md"
    )


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_links_between_pages_have_ends(name: str) -> None:
    path = REPOSITORY / name
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "http://")):
            assert (path.parent / target).exists(), target


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert all(f"({name})" in index for name in PAGES if name != "README.md")


# The reader itself --------------------------------------------------------------------------------


def test_a_wrong_output_is_noticed() -> None:
    assert agrees("a ... c\n...", "a b c\nd\ne")
    assert not agrees("a\nb", "a\nc")
    assert not agrees("", "anything")


def test_commands_of_a_block_are_told_from_their_output() -> None:
    body = "$ disaggc targets \\\n    x\none\ntwo\n$ disaggc\n"
    assert commands(body) == [Shown("disaggc targets      x", "one\ntwo"), Shown("disaggc", "")]


def test_an_update_puts_what_is_printed_in_place() -> None:
    text = "```console\n$ disaggc a\nold\n$ disaggc b\n```\n"
    played = [(Shown("disaggc a", "old"), "new"), (Shown("disaggc b", ""), "more")]
    assert updated(text, played) == "```console\n$ disaggc a\nnew\n$ disaggc b\nmore\n```\n"
