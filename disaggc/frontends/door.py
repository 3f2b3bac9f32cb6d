"""Opens an ONNX file: refuses what is no model, inlines functions, sorts nodes."""

from __future__ import annotations

import hashlib
import heapq
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from disaggc.errors import GraphError, ModelError, NotOnnxError, WeightsError

CONTRIB = "com.microsoft"
"""Functions of this domain spell out an op that runtimes know as one; they stay one node."""


def open_model(path: Path) -> onnx.ModelProto:
    """The model in ``path``, with foreign functions inlined and nodes in topological order.

    Raises:
        ModelError: The path is no file.
        NotOnnxError: The file is no ONNX model, or is truncated.
        WeightsError: A weight lies outside the model's folder.
        GraphError: The nodes form a cycle.
    """
    model = _parse(path)
    _check_locations(model, path)
    foreign = [(f.domain, f.name) for f in model.functions if f.domain != CONTRIB]
    if foreign:
        model = onnx.inliner.inline_selected_functions(model, foreign)
    _sort(model.graph, path)
    return model


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise ModelError(f"No file '{path}'.")
    if path.is_dir():
        raise ModelError(f"'{path}' is a folder. Name the .onnx file in it.")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise NotOnnxError(
            f"'{path}' is not an ONNX model, or is truncated ({path.stat().st_size:,} bytes read). "
            f"Export it again, or copy it again and compare sizes."
        ) from error
    except OSError as error:
        raise ModelError(f"Cannot read '{path}': {error.strerror}.") from error
    if not model.graph.node or not model.opset_import:
        raise NotOnnxError(
            f"'{path}' holds no ONNX graph (no nodes or no opset). Is it the model file, and not its weights?"
        )
    return model


def _check_locations(model: onnx.ModelProto, path: Path) -> None:
    """Weights must lie in the model's folder: a model from elsewhere must not name files of this machine."""
    folder = path.resolve().parent
    locations = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for location in sorted(locations):
        if Path(location).is_absolute() or not (folder / location).resolve().is_relative_to(folder):
            raise WeightsError(
                f"'{path.name}' takes weights from '{location}', outside its own folder '{folder}'. "
                f"Move the weights beside the model and save it again with a relative location."
            )


def _sort(graph: onnx.GraphProto, path: Path) -> None:
    """Stable topological order, in place; exporters' order is kept wherever it is one."""
    if _is_sorted(graph):
        return
    writer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [
        {writer[n] for n in (*node.input, *captured(node)) if n in writer} - {i}
        for i, node in enumerate(graph.node)
    ]
    order = _stable_order(needs)
    if len(order) < len(graph.node):
        stuck = next(node for i, node in enumerate(graph.node) if i not in set(order))
        raise GraphError(f"'{path.name}': node '{stuck.name}' ({stuck.op_type}) takes part in a cycle.")
    nodes = [graph.node[i] for i in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString(deterministic=True)) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _is_sorted(graph: onnx.GraphProto) -> bool:
    later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        if any(name in later for name in node.input) or any(name in later for name in captured(node)):
            return False
        later.difference_update(node.output)
    return True


def _stable_order(needs: list[set[int]]) -> list[int]:
    waiting = [len(n) for n in needs]
    users: list[list[int]] = [[] for _ in needs]
    for i, wanted in enumerate(needs):
        for j in wanted:
            users[j].append(i)
    ready = [i for i, count in enumerate(waiting) if not count]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in users[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(ready, j)
    return order


def captured(node: onnx.NodeProto) -> list[str]:
    """Values of the outer graph that the bodies of a control-flow node read, in order."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            own = {v.name for v in (*body.input, *body.initializer)}
            for inner in body.node:
                reads = [n for n in (*inner.input, *captured(inner)) if n and n not in own]
                found.update(dict.fromkeys(reads))
                own.update(inner.output)
            found.update(dict.fromkeys(o.name for o in body.output if o.name not in own))
    return list(found)
