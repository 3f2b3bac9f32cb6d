"""Opens an ONNX file: refuses what is no model, inlines functions, sorts nodes."""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from disaggc.errors import GraphError, ModelError, NotOnnxError, WeightsError

OnnxModel = onnx.ModelProto
"""The protobuf, for those who pass it on without looking inside."""

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
    if any(bytes in map(type, texts) for texts in _texts(model.graph)):
        raise NotOnnxError(f"'{path}' holds a name that is no UTF-8 text. Export it again, or copy it again.")
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
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
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


def _texts(graph: onnx.GraphProto) -> Iterator[tuple[str, ...]]:
    """The texts that reading relies on, op by op: protobuf hands out bytes for what is no UTF-8."""
    for node in graph.node:
        yield (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield (attribute.name,)
            for body in _bodies(attribute):
                yield from _texts(body)
    for info in (*graph.value_info, *graph.input, *graph.output):
        yield (info.name, *_dim_names(info.type.SerializeToString(deterministic=True)))
    for tensor in graph.initializer:
        yield (tensor.name, *(text for entry in tensor.external_data for text in (entry.key, entry.value)))


@functools.lru_cache(maxsize=65536)
def _dim_names(spelling: bytes) -> tuple[str, ...]:
    """The symbolic extents of a serialised type; large graphs repeat few types."""
    return tuple(dim.dim_param for dim in onnx.TypeProto.FromString(spelling).tensor_type.shape.dim)


def _check_locations(model: onnx.ModelProto, path: Path) -> None:
    """Weights must lie in the model's folder: a model from elsewhere must not name files of this machine."""
    folder = path.resolve().parent
    tensors = (*_tensors(model.graph.node), *model.graph.initializer)
    functions = (tensor for function in model.functions for tensor in _tensors(function.node))
    entries = (entry for tensor in (*tensors, *functions) for entry in tensor.external_data)
    for location in sorted({entry.value for entry in entries if entry.key == "location"}):
        if "\0" in location or not (folder / location).resolve().is_relative_to(folder):
            raise WeightsError(
                f"'{path.name}' takes weights from '{location}', outside its own folder '{folder}'. "
                f"Move the weights beside the model and save it again with a relative location."
            )


def _tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Tensors in the attributes of nodes, and in the bodies of control flow."""
    for attribute in (a for node in nodes for a in node.attribute):
        yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
        for body in _bodies(attribute):
            yield from body.initializer
            yield from _tensors(body.node)


def _bodies(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _sort(graph: onnx.GraphProto, path: Path) -> None:
    """Stable topological order, in place; exporters' order is kept wherever it is one."""
    if _is_sorted(graph):
        return
    writer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [{writer[n] for n in (*node.input, *captured(node)) if n in writer} for node in graph.node]
    order = _stable_order(needs)
    if len(order) < len(graph.node):
        stuck = graph.node[_on_cycle(needs, frozenset(order))]
        raise GraphError(f"'{path.name}': node '{stuck.name}' ({stuck.op_type}) takes part in a cycle.")
    nodes = [graph.node[i] for i in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString(deterministic=True)) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _is_sorted(graph: onnx.GraphProto) -> bool:
    later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        if not later.isdisjoint(node.input) or (node.attribute and not later.isdisjoint(captured(node))):
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


def _on_cycle(needs: list[set[int]], done: frozenset[int]) -> int:
    """A node on a cycle: going back from one that waits forever, the first that is met again."""
    i = next(i for i in range(len(needs)) if i not in done)
    met: set[int] = set()
    while i not in met:
        met.add(i)
        i = min(needs[i] - done)
    return i


def captured(node: onnx.NodeProto) -> list[str]:
    """Values of the outer graph that the bodies of a control-flow node read, in order."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        for body in _bodies(attribute):
            own = {v.name for v in (*body.input, *body.initializer)}
            for inner in body.node:
                reads = [n for n in (*inner.input, *captured(inner)) if n and n not in own]
                found.update(dict.fromkeys(reads))
                own.update(inner.output)
            found.update(dict.fromkeys(o.name for o in body.output if o.name not in own))
    return list(found)
