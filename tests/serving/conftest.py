"""One server for most tests: the tiny plan with a tokenizer and a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs import tiny_plan

from disaggc.plans import open_plan
from disaggc.runtime import Execution, run
from disaggc.serving import Choices, Rules

from .house import Running, running, write_language


@pytest.fixture(scope="session")
def plan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    write_language(folder)
    return folder


@pytest.fixture(scope="session")
def house(plan_folder: Path, model_folder: Path) -> Iterator[Running]:
    execution = Execution(micro_batch=4, kv_tokens=400_000)
    choices = Choices(model_folder=model_folder, execution=execution, name="tiny", context=100_000)
    with running(plan_folder, choices, Rules(max_tokens=12)) as found:
        yield found


class Expected:
    """What ``disaggc run`` answers."""

    def __init__(self, plan_folder: Path, model_folder: Path) -> None:
        self._folder, self._model = plan_folder, model_folder

    def __call__(self, *prompts: list[int], new_tokens: int = 20) -> list[list[int]]:
        plan = open_plan(self._folder)
        found = run(plan, self._folder, self._model, prompts, new_tokens)
        return [list(tokens) for tokens in found.tokens]


@pytest.fixture(scope="session")
def expected(plan_folder: Path, model_folder: Path) -> Expected:
    return Expected(plan_folder, model_folder)
