"""Small networks that are cut into shards and run turn by turn, beside themselves uncut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession, SessionOptions  # type: ignore[attr-defined]  # no __all__ there

from disaggc.backends.emitters.op_table import Placed
from disaggc.backends.sharding import Degree
from disaggc.backends.sharding.scheme import Scheme, scheme_of
from disaggc.backends.sharding.segments import Segment, segments_of
from disaggc.backends.sharding.stage_graph import ModelValues, StageGraph, read_stage
from disaggc.ir import Phase

TOKENS, HIDDEN, WIDTH, EXPERTS = 5, 16, 32, 8
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
CONTRIB = "com.microsoft"
_INLINE = 65
"""Bytes from which on a constant is in a file: axes and bounds are in the model, as exporters write them."""
ARRIVING: dict[str, frozenset[int]] = {}


@dataclass(frozen=True)
class Network:
    """Nodes with their roles, and weights; ``x`` [tokens, hidden] goes in and ``y`` comes out."""

    nodes: tuple[tuple[str, NodeProto], ...]
    weights: dict[str, np.ndarray[Any, Any]]
    inputs: tuple[str, ...] = ("x",)
    outputs: tuple[str, ...] = ("y",)
    dim: int | str = "tokens"

    def model(self) -> onnx.ModelProto:
        """The network, every weight in it."""
        graph = helper.make_graph(
            [node for _, node in self.nodes],
            "network",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, [self.dim, HIDDEN]) for n in self.inputs],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def drawn(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    """Random weights."""
    return (np.random.default_rng(seed).standard_normal(shape) * 0.3).astype(np.float32)


def op(kind: str, inputs: str, outputs: str, role: str = "ffn", **attributes: Any) -> tuple[str, NodeProto]:
    """A node with its role; names are separated by spaces, '-' is absent."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return role, helper.make_node(kind, names, outputs.split(), name=outputs.split()[0], **attributes)


def staged(network: Network, folder: Path) -> StageGraph:
    """The network as the subgraph of a stage, its weights in a file beside it."""
    onnx.save(
        network.model(),
        folder / "stage.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=_INLINE,
    )
    rows = [
        Placed(
            Phase.DECODE, i, f"{node.domain}::{node.op_type}".removeprefix("::"), 0, role, "p", 0, node.name
        )
        for i, (role, node) in enumerate(network.nodes)
    ]
    return read_stage(folder, "stage.onnx", rows, ModelValues(folder / "absent.onnx"))


@dataclass(frozen=True)
class Shared:
    """A network after it was cut."""

    stage: StageGraph
    scheme: Scheme
    turns: tuple[Segment, ...]


def cut(
    network: Network, folder: Path, degree: str, kept: Sequence[str] = (), states: Sequence[str] = ()
) -> Shared:
    """Cut a network; 'tp2' or 'ep4'."""
    stage = staged(network, folder)
    wanted = Degree("tp" if degree[:2] == "tp" else "ep", int(degree[2:]))
    scheme = scheme_of(stage, wanted, frozenset(kept), frozenset(states))
    return Shared(stage, scheme, segments_of(stage, scheme, wanted.shards, ARRIVING))


def fed(network: Network) -> dict[str, Any]:
    """Inputs."""
    return {name: drawn(99 + i, TOKENS, HIDDEN) for i, name in enumerate(network.inputs)}


def whole(network: Network) -> list[Any]:
    """What the uncut network gives."""
    return list(_session(network.model().SerializeToString()).run(None, fed(network)))


def in_turns(network: Network, shared: Shared, folder: Path) -> list[Any]:
    """What the shards give: each turn by itself, values by name, terms added where an output is one."""
    values = fed(network)
    for turn in shared.turns:
        session = _session(turn.model.SerializeToString(), folder)
        given = {port.name: values[port.name] for port in session.get_inputs()}
        names = [port.name for port in session.get_outputs()]
        values.update(zip(names, session.run(names, given), strict=True))
    return [
        sum(values[f"{name}@{shard}"] for shard in sorted(terms))
        if (terms := shared.scheme.partial.get(name))
        else values[name]
        for name in network.outputs
    ]


def gap(network: Network, shared: Shared, folder: Path) -> float:
    """The largest difference, over the largest number."""
    pairs = zip(in_turns(network, shared, folder), whole(network), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _session(data: bytes, folder: Path | None = None) -> InferenceSession:
    options = SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if folder is not None:
        options.add_session_config_entry(WEIGHTS_FOLDER, str(folder))
    return InferenceSession(data, options, providers=["CPUExecutionProvider"])
