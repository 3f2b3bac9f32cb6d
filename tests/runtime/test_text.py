"""Prompts of text go through the tokenizer that lies beside the model."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from jobs import EXAMPLES, TINY, tiny_job
from tokenizers import Tokenizer, models, pre_tokenizers

from disaggc import cli
from disaggc.compiler import compile_job
from disaggc.errors import JobError, ModelError
from disaggc.runtime import Text

WORDS = ["[UNK]", "the", "capital", "of", "France", "is", "Paris"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer of seven words."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_text_becomes_ids_and_ids_become_text(folder: Path) -> None:
    text = Text(folder)
    assert text.ids("the capital of France is") == [1, 2, 3, 4, 5]
    assert text.text([6, 0]) == "Paris [UNK]"


def test_a_prompt_without_tokens_is_refused(folder: Path) -> None:
    with pytest.raises(JobError, match=r"The prompt '  ' comes to no token"):
        Text(folder).ids("  ")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer.json beside the model.*--prompt-ids"):
        Text(tmp_path)


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is no tokenizer"):
        Text(tmp_path)


def test_without_the_package_the_error_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(JobError, match=r"pip install 'disaggc\[text\]'"):
        Text(folder)


def test_run_takes_text_and_ids_and_gives_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = folder / "plan"
    compile_job(tiny_job(), EXAMPLES, plan)
    shutil.copy(TINY, folder)
    asked = ["run", str(plan), "--model", str(folder), "--max-new-tokens", "3", "--json"]
    assert cli.main([*asked, "--prompt", "the capital of", "--prompt-ids", "1,2,3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"][0] == found["tokens"][1]
    assert len(found["texts"]) == 2
