"""The same model written in another way: other names, no documentation, another order of nodes."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator

import onnx
from onnx import helper

_WORDS = re.compile(r"[A-Za-z_]\w*")


def renamed(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """With random names for every node, value and dimension."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = _Names(random.Random(seed))
    for graph in _graphs(copy.graph):
        _rename_graph(graph, names)
    return copy


def undocumented(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without metadata and doc strings, and with an anonymous producer."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for field in ("metadata_props", "doc_string", "producer_name", "producer_version"):
        copy.ClearField(field)
    for graph in _graphs(copy.graph):
        graph.name = "g"
        for holder in (
            graph,
            *graph.node,
            *graph.value_info,
            *graph.input,
            *graph.output,
            *graph.initializer,
        ):
            holder.ClearField("metadata_props")
            holder.ClearField("doc_string")
    return copy


def shuffled(model: onnx.ModelProto, seed: int) -> tuple[onnx.ModelProto, list[int]]:
    """In a random topological order, with the old index of each node."""
    rng = random.Random(seed)
    order = _random_order(list(model.graph.node), rng)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(model.graph.node[i] for i in order)
    return copy, order


def unfused(model: onnx.ModelProto) -> onnx.ModelProto:
    """With an Add and a norm for each op that adds, norms and hands on both."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for node in model.graph.node:
        fused = node.op_type == "SkipSimplifiedLayerNormalization" and len(node.output) > 3
        copy.graph.node.extend(_add_and_norm(node) if fused else [node])
    return copy


def _add_and_norm(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    x, skip, gamma = node.input
    epsilon = {a.name: a.f for a in node.attribute}["epsilon"]
    yield helper.make_node("Add", [x, skip], [node.output[3]], name=f"{node.name}/add")
    yield helper.make_node(
        "SimplifiedLayerNormalization",
        [node.output[3], gamma],
        [node.output[0]],
        name=node.name,
        axis=-1,
        epsilon=epsilon,
        stash_type=1,
    )


def _random_order(nodes: list[onnx.NodeProto], rng: random.Random) -> list[int]:
    writer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits = [{writer[name] for name in node.input if name in writer} for node in nodes]
    users: dict[int, list[int]] = {}
    for i, makers in enumerate(waits):
        for j in makers:
            users.setdefault(j, []).append(i)
    ready, order = [i for i, makers in enumerate(waits) if not makers], []
    while ready:
        i = ready.pop(rng.randrange(len(ready)))
        order.append(i)
        for j in users.get(i, ()):
            waits[j].discard(i)
            if not waits[j]:
                ready.append(j)
    return order


class _Names:
    """Random names, the same one each time a name comes again."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.values: dict[str, str] = {"": ""}
        self.dims: dict[str, str] = {"floor": "floor"}

    def value(self, name: str) -> str:
        if name not in self.values:
            self.values[name] = f"{self.rng.getrandbits(32):08x}.{len(self.values)}"
        return self.values[name]

    def dim(self, text: str) -> str:
        return _WORDS.sub(lambda match: self._word(match.group()), text)

    def _word(self, word: str) -> str:
        return self.dims.setdefault(word, f"d{self.rng.getrandbits(32):08x}_{len(self.dims)}")


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for attribute in (a for node in graph.node for a in node.attribute):
        if attribute.HasField("g"):
            yield from _graphs(attribute.g)


def _rename_graph(graph: onnx.GraphProto, names: _Names) -> None:
    for node in graph.node:
        node.name = names.value(f"node {node.name}")
        node.input[:] = [names.value(name) for name in node.input]
        node.output[:] = [names.value(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names.value(tensor.name)
    for info in (*graph.value_info, *graph.input, *graph.output):
        info.name = names.value(info.name)
        _rename_dims(info.type.tensor_type.shape.dim, names)


def _rename_dims(dims: Iterable[onnx.TensorShapeProto.Dimension], names: _Names) -> None:
    for dim in dims:
        if dim.dim_param:
            dim.dim_param = names.dim(dim.dim_param)
