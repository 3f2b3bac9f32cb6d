"""onnxruntime's own kernels, and what its profiler says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import (  # type: ignore[attr-defined]  # it re-exports without __all__
    GraphOptimizationLevel,
    InferenceSession,
    SessionOptions,
)

Arrays = dict[str, npt.NDArray[Any]]
CONTRIB = "com.microsoft"


def model(nodes: list[onnx.NodeProto], given: Arrays, weights: Arrays, results: list[str]) -> onnx.ModelProto:
    """A model of float outputs."""
    graph = helper.make_graph(
        nodes,
        "kernels",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in given.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(
    op: str,
    inputs: Sequence[npt.NDArray[Any] | None],
    outputs: int,
    /,
    domain: str = CONTRIB,
    **attributes: Any,
) -> list[Any]:
    """Run one op."""
    names = ["" if array is None else f"in{k}" for k, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    results = [f"out{k}" for k in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attributes)
    made = model([node], given, {}, results).SerializeToString()
    session = InferenceSession(made, providers=["CPUExecutionProvider"])
    return list(session.run(None, given))


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that a kernel read and wrote."""

    weights: int
    read: int
    written: int


def profile(made: onnx.ModelProto, given: Arrays, folder: Path) -> dict[str, Moved]:
    """What each node of a model moved, by its name; nothing is fused or repacked."""
    options = SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, given)
    log: str = session.end_profiling()  # type: ignore[no-untyped-call]  # as the library has it
    events = json.loads(Path(log).read_text())
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return {
        e["name"].removesuffix("_kernel_time"): Moved(
            *(int(e["args"][f"{kind}_size"]) for kind in ("parameter", "activation", "output"))
        )
        for e in kernels
    }


def random(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Random numbers."""
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape).astype(np.float32)


def several(count: int, *shape: int) -> list[npt.NDArray[np.float32]]:
    """Arrays of one shape, each of other random numbers."""
    return [random(*shape, seed=seed) for seed in range(count)]
