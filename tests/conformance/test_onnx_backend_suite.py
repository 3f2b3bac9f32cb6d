"""The ONNX backend test suite, whole and cut: in parts passes what plain onnxruntime passes, and no more.

Every CPU node test of ``onnx.backend.test`` runs twice: as one onnxruntime session, and cut at random
topological positions into two or three parts by our cutter, each part on an executor of its own.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import unittest
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import onnx
import onnx.backend.test
from onnx.backend.base import Backend, BackendRep
from onnxruntime import InferenceSession, SessionOptions, set_default_logger_severity  # type: ignore[attr-defined]

from disaggc.backends.onnxruntime import Part, boundary, write_subgraphs
from disaggc.backends.onnxruntime.parts import is_constant
from disaggc.plans import Stage
from disaggc.runtime.engine import OrtValue
from disaggc.runtime.sessions import StageOpener
from disaggc.runtime.stage import BoundStage, Outline

LEAST_MODELS_CUT = 400
FATAL = 4


@dataclass
class Whole(BackendRep):
    """A model as one session."""

    session: Any

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        names = [port.name for port in self.session.get_inputs()]
        return tuple(self.session.run(None, dict(zip(names, map(_array, inputs), strict=False))))


@dataclass
class Cut(BackendRep):
    """A model in parts, each on its own executor; values are handed from one to the next by name."""

    model: onnx.ModelProto
    folder: tempfile.TemporaryDirectory[str]
    parts: list[Part] = field(default_factory=list)
    sessions: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        folder = Path(self.folder.name)
        path = folder / "model.onnx"
        path.write_bytes(self.model.SerializeToString())
        nodes = slices(self.model)
        borders = boundary(self.model, nodes)
        self.parts = [
            Part(f"subgraphs/{i}.onnx", tuple(own), border.inputs, border.outputs)
            for i, (own, border) in enumerate(zip(nodes, borders, strict=True))
        ]
        write_subgraphs(self.model, path, self.parts, folder)
        open_stage = StageOpener(folder, folder, threads=1)
        for i, part in enumerate(self.parts):
            stage = Stage(i, "cpu", (), (), part.path, part.inputs, part.outputs)
            self.sessions.append(open_stage(stage) if part.outputs else None)

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        constants = {tensor.name for tensor in self.model.graph.initializer}
        names = [value.name for value in self.model.graph.input if value.name not in constants]
        values = dict(zip(names, map(_array, inputs), strict=False))
        for part, session in zip(self.parts, self.sessions, strict=True):
            if session is not None:
                given = {name: values[name] for name in part.inputs}
                values.update(execute(session, given, part.outputs))
        return tuple(values[value.name] for value in self.model.graph.output)


def slices(model: onnx.ModelProto) -> list[list[int]]:
    """Two or three runs of nodes, cut where a seed made of the model says."""
    work = [i for i, node in enumerate(model.graph.node) if not is_constant(node)]
    rng = random.Random(crc32(model.SerializeToString(deterministic=True)))
    cuts = sorted(rng.sample(work[1:], min(len(work) - 1, rng.choice((1, 2))))) if work else []
    bounds = [0, *cuts, len(model.graph.node)]
    return [list(range(a, b)) for a, b in itertools.pairwise(bounds)]


def execute(session: Any, given: dict[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """One part: bound as the runtime binds a stage, or by value where something is no numeric tensor."""
    ports = [*session.get_inputs(), *session.get_outputs()]
    if any(not port.type.startswith("tensor(") or port.type == "tensor(string)" for port in ports):
        return dict(zip(outputs, session.run(list(outputs), given), strict=True))
    values = {name: OrtValue.ortvalue_from_numpy(value) for name, value in given.items()}
    names = tuple(port.name for port in session.get_inputs())
    BoundStage(Outline(session, names, tuple(outputs))).run(values)
    return {name: values[name].numpy() for name in outputs}


def _array(value: Any) -> Any:
    """The suite gives numpy scalars for tensors without extents, which onnxruntime does not take."""
    return np.asarray(value) if isinstance(value, np.generic) else value


class PlainBackend(Backend):
    """onnxruntime as it is."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, *_: Any, **__: Any) -> BackendRep:
        return Whole(
            InferenceSession(model.SerializeToString(), _quiet(), providers=["CPUExecutionProvider"])
        )

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


class CutBackend(PlainBackend):
    """onnxruntime over our cut."""

    cut = 0

    @classmethod
    def prepare(cls, model: onnx.ModelProto, *_: Any, **__: Any) -> BackendRep:
        found = Cut(model, tempfile.TemporaryDirectory())
        cls.cut += len(found.parts) > 1
        return found


def _quiet() -> SessionOptions:
    options = SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = 1
    return options


def passing(backend: type[Backend], kind: str = "OnnxBackendNodeModelTest") -> tuple[set[str], int]:
    """The names of the suite's tests that pass, and how many ran."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the suite overflows and divides by zero on purpose
        cases = onnx.backend.test.BackendTest(backend, __name__).test_cases[kind]
    loaded = unittest.defaultTestLoader.loadTestsFromTestCase(cases)
    result = Passed()
    loaded.run(result)
    return result.passed, result.testsRun - len(result.skipped)


class Passed(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.passed: set[str] = set()

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        self.passed.add(test.id().rsplit(".", 1)[-1])


def test_cut_models_pass_what_whole_models_pass() -> None:
    set_default_logger_severity(FATAL)
    whole, count = passing(PlainBackend)
    parts, _ = passing(CutBackend)
    print(f"\n{count} tests; {len(whole)} pass whole, {len(parts)} cut; {CutBackend.cut} models really cut")
    assert sorted(whole - parts) == []
    assert sorted(parts - whole) == []
    assert CutBackend.cut >= LEAST_MODELS_CUT
