"""Where the small real models of other people's exporters are."""

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared_models() -> Path:
    named = os.environ.get("DISAGGC_MODELS")
    places = [Path(named)] if named else []
    places += [_REPOSITORY / "examples" / "models", _REPOSITORY.parent / "shared" / "models"]
    for place in places:
        if (place / "mobius").is_dir():
            return place
    pytest.skip("No models to run: set DISAGGC_MODELS to the folder that holds mobius/ and genai/.")
