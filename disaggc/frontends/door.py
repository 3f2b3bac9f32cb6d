"""Opens an ONNX file: refuses what is no model, inlines functions, sorts nodes."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
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
    survey = _survey(model.graph)
    check_texts(survey.texts, path)
    functions = [_survey_of(function.node, {"", *function.input}) for function in model.functions]
    _check_locations((*survey.locations, *(name for f in functions for name in f.locations)), path)
    foreign = [(f.domain, f.name) for f in model.functions if f.domain != CONTRIB]
    if foreign:
        model = onnx.inliner.inline_selected_functions(model, foreign)
    if not all(part.is_sorted for part in (survey, *functions)):
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


@dataclass(frozen=True, slots=True)
class _Survey:
    """What one sweep over a graph finds: each access to a protobuf field costs, so each is read once.

    Attributes:
        texts: Every text of nodes and weights that reading relies on.
        locations: Files that hold weights, of control-flow bodies, too.
        is_sorted: Each node reads only what stands before it.
    """

    texts: set[str]
    locations: tuple[str, ...]
    is_sorted: bool


def _survey(graph: onnx.GraphProto) -> _Survey:
    """A sweep over a graph with its weights."""
    known = {"", *(tensor.name for tensor in graph.initializer), *(info.name for info in graph.input)}
    nodes = _survey_of(graph.node, known)
    entries = [(e.key, e.value) for tensor in graph.initializer for e in tensor.external_data]
    texts = nodes.texts.union(text for entry in entries for text in entry)
    locations = {value for key, value in entries if key == "location"}
    return _Survey(texts, (*nodes.locations, *locations), nodes.is_sorted)


def _survey_of(nodes: Iterable[onnx.NodeProto], known: AbstractSet[str]) -> _Survey:
    """A sweep over nodes; ``known`` is what the first of them may read."""
    written, labels, tensors = set(known), set(), []
    is_sorted = True
    bodies: list[_Survey] = []
    for node in nodes:
        labels.add(node.name)
        labels.add(node.op_type)
        labels.add(node.domain)
        is_sorted = is_sorted and written.issuperset(node.input)
        for attribute in node.attribute:
            labels.add(attribute.name)
            if attribute.type in _HOLDERS:
                tensors += [attribute.t, *attribute.tensors]
                inner = [_survey(body) for body in _bodies(attribute)]
                is_sorted = is_sorted and not inner
                bodies += inner
        written.update(node.output)
    locations = (e.value for tensor in tensors for e in tensor.external_data if e.key == "location")
    inside = (name for body in bodies for name in body.locations)
    return _Survey(labels.union(written, *(b.texts for b in bodies)), (*locations, *inside), is_sorted)


_HOLDERS = frozenset(
    {
        onnx.AttributeProto.UNDEFINED,
        onnx.AttributeProto.TENSOR,
        onnx.AttributeProto.TENSORS,
        onnx.AttributeProto.GRAPH,
        onnx.AttributeProto.GRAPHS,
    }
)
"""Types of attributes that can hold weights or graphs; old files leave the type out."""


def check_texts(texts: Iterable[object], path: Path) -> None:
    """Refuse a name that is no text: protobuf hands it out as bytes.

    Raises:
        NotOnnxError: One of ``texts`` is no UTF-8.
    """
    if bytes in map(type, texts):
        raise NotOnnxError(f"'{path}' holds a name that is no UTF-8 text. Export it again, or copy it again.")


def _check_locations(locations: Iterable[str], path: Path) -> None:
    """Weights must lie in the model's folder: a model from elsewhere must not name files of this machine."""
    folder = path.resolve().parent
    for location in sorted(set(locations)):
        if "\0" in location or not (folder / location).resolve().is_relative_to(folder):
            raise WeightsError(
                f"'{path.name}' takes weights from '{location}', outside its own folder '{folder}'. "
                f"Move the weights beside the model and save it again with a relative location."
            )


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
