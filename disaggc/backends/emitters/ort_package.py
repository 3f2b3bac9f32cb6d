"""An ONNX Runtime model package: one component a stage, with our device and stage in its executor_info.

onnxruntime (``ModelPackage``, ``ModelPackageContext``) opens it by itself. What a component's subgraph reads
from another is by name; the order of stages is in ``executor_info.disaggc``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.backends.emitters.order import Order, Written
from disaggc.backends.emitters.serving import is_nvidia_gpu
from disaggc.backends.emitters.source_model import model_path, place_weights
from disaggc.backends.emitters.subgraphs import Use, subgraphs_of, weight_files

SCHEMA_VERSION = "1.0"
MODELS = "models"
"""The folder of subgraphs and weights; a portable package names files relative to its root."""


@dataclass(frozen=True, slots=True)
class OrtPackageEmitter:
    """See the module."""

    takes: ClassVar[frozenset[str]] = frozenset(("name", "model"))

    def emit(self, order: Order, folder: Path) -> Written:
        """Write manifest.json, components/*/component.json and models/."""
        model_path(order)
        subgraphs = subgraphs_of(order)
        models = folder / MODELS
        models.mkdir()
        components = {}
        for path, uses in subgraphs.items():
            name = Path(path).stem
            components[name] = f"components/{name}"
            shutil.copyfile(order.folder / path, models / f"{name}.onnx")
            _write_json(folder / "components" / name / "component.json", _component(order, name, uses))
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "package_name": order.settings.name or order.plan.model.name,
            "components": components,
        }
        _write_json(folder / "manifest.json", manifest)
        notes = place_weights(weight_files(order.folder, subgraphs), order, models)
        return Written(
            notes, "onnxruntime.ModelPackageContext(OUT).select_component(NAME, ...) opens a stage"
        )


EMITTER = OrtPackageEmitter()


def _component(order: Order, name: str, uses: tuple[Use, ...]) -> dict[str, object]:
    """A stage, as a variant for each execution provider that its pool could run it with."""
    stage = uses[0].stage
    info = {
        "ort": {"model_file": f"{MODELS}/{name}.onnx"},
        "disaggc": {
            "device": stage.pool,
            "stage": stage.index,
            "phases": [use.phase.value for use in uses],
            "layers": list(stage.layers),
            "roles": list(stage.roles),
        },
    }
    variants = {"cpu": {"ep": "CPUExecutionProvider", "executor_info": info}}
    if is_nvidia_gpu(order.system(order.pool(stage.pool)).device):
        variants["cuda"] = {"ep": "CUDAExecutionProvider", "executor_info": info}
    return {"variants": variants}


def _write_json(path: Path, data: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
