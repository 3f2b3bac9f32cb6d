"""What a part of a model is, and what crosses its border."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from disaggc.backends.onnxruntime.making import Made
from disaggc.backends.onnxruntime.nodes import is_standard
from disaggc.errors import PlanError


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes of a model that become one subgraph.

    Attributes:
        path: The file to write, relative to the plan folder ('subgraphs/stage_000.onnx').
        nodes: Indices into the model's ``graph.node``, in order of execution.
        inputs: Values it reads that are not its own, past states included.
        outputs: Values it writes that others need, present states included.
        made: Extents that it makes from its inputs instead of being sent them.
        rewritten: Index into the model's nodes to the node that is written in its place.
    """

    path: str
    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    made: tuple[Made, ...] = ()
    rewritten: Mapping[int, onnx.NodeProto] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Boundary:
    """The values that enter and leave a part, in the order of first read and of writing."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def boundary(
    source: onnx.ModelProto,
    parts: Sequence[Sequence[int]],
    made: Sequence[Collection[str]] = (),
    rewritten: Mapping[int, onnx.NodeProto] | None = None,
) -> tuple[Boundary, ...]:
    """What crosses the border of each part. Constants never do: each part gets those that it reads.

    A node may be in several parts (a shape computed twice); the first that writes a value is the
    one that others get it from. A graph output that is itself a graph input or an initializer
    leaves through the first part that reads it.

    Args:
        source: The model; its nodes are topologically sorted.
        parts: Node indices of each part, and parts, in execution order.
        made: For each part what it makes for itself; nothing if left out.
        rewritten: Nodes that are written otherwise than the model has them; none if left out.

    Returns:
        One boundary a part.

    Raises:
        PlanError: A part reads what a later part, or none, writes.
    """
    read = [_reads_of(source, nodes, rewritten or {}) for nodes in parts]
    written = [_writes_of(source, nodes) for nodes in parts]
    for own, names in zip(written, made, strict=bool(made)):
        own.update(dict.fromkeys(names))
    writer = _first_owner(written)
    constants = constant_names(source.graph)
    inputs = [_entering(r, constants, w) for r, w in zip(read, written, strict=True)]
    _check_order(inputs, writer, {value.name for value in source.graph.input})
    wanted = {name for names in inputs for name in names if name in writer}
    leaving = _graph_outputs(source.graph, writer, _first_owner(read), len(parts))
    for entering, names in zip(inputs, leaving, strict=True):
        entering.update(dict.fromkeys(n for n in names if n not in writer and n not in constants))
    return tuple(
        Boundary(tuple(inputs[i]), _outputs(written[i], i, writer, wanted, leaving[i]))
        for i in range(len(parts))
    )


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every value that a node reads, what its control-flow bodies capture included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from _captures(attribute.g)
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for body in attribute.graphs:
                yield from _captures(body)


def constant_names(graph: onnx.GraphProto) -> set[str]:
    """What every part holds for itself: initializers, sparse ones, and the outputs of ``Constant`` nodes."""
    return {
        *(tensor.name for tensor in graph.initializer),
        *(tensor.values.name for tensor in graph.sparse_initializer),
        *(node.output[0] for node in graph.node if is_constant(node)),
    }


def is_constant(node: onnx.NodeProto) -> bool:
    """Whether a node is a constant written as one."""
    return is_standard(node, "Constant")


def _captures(body: onnx.GraphProto) -> Iterator[str]:
    """Values of the outer graphs that a body reads."""
    own = {value.name for value in body.input} | constant_names(body)
    own.update(name for node in body.node for name in node.output)
    seen = (name for node in body.node for name in reads(node))
    yield from (name for name in seen if name not in own)
    yield from (value.name for value in body.output if value.name not in own)


def _reads_of(
    source: onnx.ModelProto, nodes: Iterable[int], rewritten: Mapping[int, onnx.NodeProto]
) -> dict[str, None]:
    own = (rewritten.get(i, source.graph.node[i]) for i in nodes)
    return dict.fromkeys(name for node in own for name in reads(node))


def _writes_of(source: onnx.ModelProto, nodes: Iterable[int]) -> dict[str, None]:
    own = (source.graph.node[i] for i in nodes)
    return dict.fromkeys(name for node in own if not is_constant(node) for name in node.output if name)


def _first_owner(names: Sequence[Iterable[str]]) -> dict[str, int]:
    """Name to the first part that has it."""
    owner: dict[str, int] = {}
    for index, part in enumerate(names):
        for name in part:
            owner.setdefault(name, index)
    return owner


def _entering(read: Iterable[str], constants: set[str], written: Iterable[str]) -> dict[str, None]:
    own = constants.union(written)
    return dict.fromkeys(name for name in read if name not in own)


def _check_order(inputs: Sequence[Iterable[str]], writer: dict[str, int], given: set[str]) -> None:
    for index, names in enumerate(inputs):
        for name in names:
            if name in given:
                continue
            if name not in writer:
                raise PlanError(
                    f"Part {index} reads '{name}', which no part writes. Assign every node to a part."
                )
            if writer[name] > index:
                raise PlanError(
                    f"Part {index} reads '{name}', which the later part {writer[name]} writes. "
                    f"Give the parts in execution order."
                )


def _graph_outputs(
    graph: onnx.GraphProto, writer: dict[str, int], reader: dict[str, int], count: int
) -> list[dict[str, None]]:
    """For each part, the graph outputs that leave through it."""
    leaving: list[dict[str, None]] = [{} for _ in range(count)]
    for value in graph.output:
        leaving[writer.get(value.name, reader.get(value.name, 0))][value.name] = None
    return leaving


def _outputs(
    written: Iterable[str], index: int, writer: dict[str, int], wanted: set[str], leaving: dict[str, None]
) -> tuple[str, ...]:
    own = [name for name in written if writer[name] == index and (name in wanted or name in leaving)]
    return (*own, *(name for name in leaving if name not in writer))
