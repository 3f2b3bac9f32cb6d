"""Models for every test: skeletons that compile, models that run, graphs that are analysed once."""

from __future__ import annotations

import functools
import lzma
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from skeletons import MODELS, SKELETONS, in_folders

from disaggc.frontends import read_graph
from disaggc.ir import Graph
from disaggc.passes import load_pipeline, run

REPOSITORY = MODELS.parents[1]

# The same examples on each run, however slow the machine: a red CI must mean a change.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing")


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def skeleton(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name in ``skeletons.SKELETONS`` to a model file without weights."""
    folder = tmp_path_factory.mktemp("skeletons")

    @functools.cache
    def unpack(name: str) -> Path:
        assert name in SKELETONS, f"no skeleton '{name}'"
        path = folder / f"{name}.onnx"
        path.write_bytes(lzma.decompress((MODELS / f"{name}.onnx.xz").read_bytes()))
        return path

    return unpack


@pytest.fixture(scope="session")
def analysed(skeleton: Callable[[str], Path]) -> Callable[[str], Graph]:
    """Name to the graph after the default pipeline; worked out once."""
    return functools.cache(lambda name: run(read_graph(skeleton(name)), load_pipeline()))


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder that holds every small model with weights; tests that want one are skipped without it."""
    elsewhere = Path(os.environ.get("DISAGGC_MODELS") or REPOSITORY.parent / "shared" / "models")
    if not (elsewhere / "mobius").is_dir():
        pytest.skip(f"'{elsewhere}' does not hold the models with weights; set DISAGGC_MODELS")
    return elsewhere


@pytest.fixture(scope="session")
def runnable() -> Callable[[str], Path]:
    """Name in ``skeletons.SMALL`` to a model with weights; the test is skipped where there is none."""

    def find(name: str) -> Path:
        elsewhere = os.environ.get("DISAGGC_MODELS") or REPOSITORY.parent / "shared" / "models"
        folders = (REPOSITORY / "examples" / "models", Path(elsewhere))
        found = in_folders(name, folders)
        if found is None:
            pytest.skip(
                f"'{name}' with weights is in none of {', '.join(map(str, folders))}; set DISAGGC_MODELS"
            )
        return found

    return find
