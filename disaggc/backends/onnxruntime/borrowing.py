"""Parts that want nothing of a model input but its extents read them off an activation that they are sent.

An exporter takes batch and length from the shape of the token ids. Where those are, say, masks are made;
but an executor that needs the ids for their shape alone would have to be told each step's tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import NodeProto

from disaggc.backends.onnxruntime.nodes import attribute, is_standard, with_inputs
from disaggc.backends.onnxruntime.parts import reads
from disaggc.ir import Expr, Graph, parse_dim

_SINCE = 15
"""The opset from which a ``Shape`` may be asked for some of the axes."""


def borrowed(
    source: onnx.ModelProto,
    graph: Graph,
    parts: Sequence[Sequence[int]],
    sent: Sequence[Sequence[str]],
    rewritten: Mapping[int, NodeProto],
) -> dict[int, NodeProto]:
    """The rewritten nodes, with those ``Shape`` of a model input too that can ask somebody else.

    Args:
        source: The model.
        graph: The same, with its extents bound to the workload.
        parts: Node indices of each part.
        sent: For each part the activations that it is sent whatever happens.
        rewritten: Nodes that are written otherwise already.
    """
    found = dict(rewritten)
    opset = max((o.version for o in source.opset_import if o.domain in ("", "ai.onnx")), default=0)
    states = {state.past for state in graph.states}
    given = [value.name for value in source.graph.input if value.name not in states]
    if opset < _SINCE:
        return found
    several = Counter(index for nodes in parts for index in nodes)
    for nodes, activations in zip(parts, sent, strict=True):
        readers: dict[str, list[int]] = {}
        for index in nodes:
            for name in reads(found.get(index, source.graph.node[index])):
                readers.setdefault(name, []).append(index)
        for name in given:
            asking = {index: found.get(index, source.graph.node[index]) for index in readers.get(name, ())}
            alone = all(is_standard(node, "Shape") and several[i] == 1 for i, node in asking.items())
            lender = next(_lenders(graph, name, activations), None) if asking and alone else None
            if lender is not None:
                rank = len(graph.values[name].shape or ())
                found.update({index: _asking(node, lender, rank) for index, node in asking.items()})
    return found


def _lenders(graph: Graph, name: str, activations: Sequence[str]) -> Iterator[str]:
    """Activations whose first extents are all that a value has."""
    wanted = _extents(graph, name)
    if wanted:
        yield from (other for other in activations if _extents(graph, other)[: len(wanted)] == wanted)


def _extents(graph: Graph, name: str) -> list[Expr]:
    value = graph.values.get(name)
    shape = value.shape if value is not None else None
    return [parse_dim(str(dim)) for dim in shape or ()]


def _asking(node: NodeProto, lender: str, rank: int) -> NodeProto:
    """A ``Shape`` of a tensor of so many axes, asking one that goes on with other axes."""
    start, end = (_absolute(attribute(node, key, at), rank) for key, at in (("start", 0), ("end", rank)))
    return with_inputs(node, [lender], node.output, {"start": start, "end": end})


def _absolute(axis: int, rank: int) -> int:
    """An axis counted from the first, as ``Shape`` takes it: within the tensor."""
    return min(max(axis + rank if axis < 0 else axis, 0), rank)
