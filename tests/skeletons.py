"""The names of the models in tests/models, for parametrising; fixtures in conftest.py give the files."""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).resolve().parent / "models"

SKELETONS = tuple(sorted(path.name.removesuffix(".onnx.xz") for path in MODELS.glob("*.onnx.xz")))
"""Every model."""

FULL = tuple(name for name in SKELETONS if name.startswith("full."))
"""Models of real size."""

SMALL = tuple(name for name in SKELETONS if name not in FULL)
"""Models of 4 layers; with weights they run in milliseconds."""

HUGE = "full.qwen3_235b.mobius"
"""182,885 nodes: what tests take most of their time for."""


def in_folders(name: str, folders: tuple[Path, ...]) -> Path | None:
    """The model with weights that a skeleton was made from, in the first folder that has it."""
    _, _, rest = name.partition(".")
    spellings = (f"{name}.onnx", f"{name.replace('.', '/', 1)}/model.onnx", f"{rest}/model.onnx")
    return next((f / s for f in folders for s in spellings if (f / s).is_file()), None)
