"""The subgraph of one stage, with what the compiler knew of its nodes: roles, layers, types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from disaggc.backends.emitters.op_table import Placed
from disaggc.backends.onnxruntime.blocks import is_block
from disaggc.backends.onnxruntime.parts import is_constant, reads
from disaggc.errors import PlanError
from disaggc.frontends import read_graph
from disaggc.ir import Graph, Role, Value

_LEAST_OPSET = 13
"""From here on Slice, Split, Squeeze and ReduceSum take what they are told as inputs."""

_MADE = frozenset(("Concat", "Constant", "Gather", "Shape", "Squeeze"))
"""What a stage may make for itself, in front of the model's nodes."""

REGION = frozenset({Role.ROUTER, Role.EXPERTS, Role.SHARED_EXPERT, Role.FFN})
"""Roles of the feed-forward network: what is cut into shards."""


@dataclass(frozen=True, slots=True)
class StageGraph:
    """A subgraph that is read and never changed.

    Attributes:
        path: Its file, relative to the plan folder.
        model: As written.
        graph: The same as it was read.
        values: What is known of its values: declared, inferred, or said by the model that it was cut from.
        ops: For each node its row of ops.csv; None for what the stage makes for itself.
        folded: Values that constants alone tell, initializers included.
        producer: Value to the index of the node that writes it.
        tensors: Its initializers.
    """

    path: str
    model: onnx.ModelProto
    graph: Graph
    values: Mapping[str, Value]
    ops: tuple[Placed | None, ...]
    folded: frozenset[str]
    producer: Mapping[str, int]
    tensors: Mapping[str, onnx.TensorProto]

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """Its nodes, in order of execution."""
        nodes: Sequence[onnx.NodeProto] = self.model.graph.node
        return nodes

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it hands on."""
        return tuple(value.name for value in self.model.graph.output)

    @property
    def opset(self) -> int:
        """Version of ONNX's own ops."""
        return self.graph.opsets.get("ai.onnx", 1)

    def role(self, index: int) -> Role | None:
        """What a node is for; None for what the stage makes for itself."""
        op = self.ops[index]
        return None if op is None else Role(op.role)

    def shape(self, name: str) -> tuple[int | str, ...] | None:
        """Extents of a value; None where nothing tells its rank."""
        weight = self.graph.weights.get(name)
        if weight is not None:
            return weight.shape
        value = self.values.get(name)
        return None if value is None else value.shape

    def extent(self, name: str, axis: int) -> int | None:
        """Elements along an axis (counted from the end); 1 where it has no such axis, None if unknown."""
        shape = self.shape(name)
        if shape is None:
            return None
        if -axis > len(shape):
            return 1
        dim = shape[axis]
        return dim if isinstance(dim, int) else None

    def rank(self, name: str) -> int | None:
        """Axes of a value, None if unknown."""
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Elements of a small integer constant, or of several in a row."""
        weight = self.graph.weights.get(name)
        if weight is not None:
            return weight.integers
        index = self.producer.get(name)
        if index is None or name not in self.folded or self.nodes[index].op_type != "Concat":
            return None
        pieces = [self.integers(piece) for piece in self.nodes[index].input]
        return None if None in pieces else tuple(n for piece in pieces if piece is not None for n in piece)

    def type_of(self, name: str) -> onnx.TypeProto:
        """The type of a value, symbolic extents left open.

        Raises:
            PlanError: Nothing tells its elements.
        """
        for declared in (*self.model.graph.output, *self.model.graph.input):
            if declared.name == name:
                found: onnx.TypeProto = declared.type
                return found
        value = self.values.get(name)
        if value is None or value.dtype is None:
            raise PlanError(
                f"Nothing tells the element type of '{name}' in '{self.path}', which would cross between "
                f"shards. Add it to the model's value_info, and compile again."
            )
        code = onnx.TensorProto.DataType.Value(value.dtype.name)
        shape = None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
        return onnx.helper.make_tensor_type_proto(code, shape)


class ModelValues:
    """What the whole model says of its values, read when a stage first asks: parts lose what is declared."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """By name; nothing if the model is not there."""
        return read_graph(self._path).values if self._path.is_file() else {}

    def completed(self, graph: Graph) -> Mapping[str, Value]:
        """The values of a part."""
        unknown = [name for name, v in graph.values.items() if v.dtype is None or v.shape is None]
        found = {name: self.values[name] for name in unknown if name in self.values} if unknown else {}
        return {**graph.values, **found}


def read_stage(folder: Path, path: str, rows: Sequence[Placed], model_values: ModelValues) -> StageGraph:
    """Read a stage's subgraph.

    Args:
        folder: The plan folder.
        path: The subgraph, relative to it.
        rows: The rows of ops.csv that belong to the stage, in order.
        model_values: Of the model that it was cut from.

    Raises:
        PlanError: They do not fit each other.
    """
    model = onnx.load(folder / path, load_external_data=False)
    graph = read_graph(folder / path, model)
    folded = _folded(model)
    producer = {name: i for i, node in enumerate(model.graph.node) for name in node.output if name}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    values = model_values.completed(graph)
    return StageGraph(path, model, graph, values, _rows(model, rows, path), folded, producer, tensors)


def check_opset(stage: StageGraph) -> None:
    """What sharding writes needs ops of opset 13.

    Raises:
        PlanError: The model is older.
    """
    if stage.opset < _LEAST_OPSET:
        raise PlanError(
            f"The model is of opset {stage.opset}; shards need {_LEAST_OPSET} or later. Export it anew."
        )


def _rows(model: onnx.ModelProto, rows: Sequence[Placed], path: str) -> tuple[Placed | None, ...]:
    """For each node its row; none for what the stage makes for itself, which is in front or a head's block.

    What is left are nodes of the model, in their order.
    """
    left = [row for row in rows if row.op != "Constant"]
    found: list[Placed | None] = []
    for node in reversed(model.graph.node):
        at = _last(left, node)
        if at is None and node.op_type not in _MADE and not is_block(node):
            raise PlanError(f"The table of ops does not fit '{path}'. Compile the plan again.")
        found.append(None if at is None else left[at])
        left = left[:at]
    return tuple(reversed(found))


def _last(rows: Sequence[Placed], node: onnx.NodeProto) -> int | None:
    """The last row that is a node's."""
    named = (node.name, node.op_type)
    places = range(len(rows) - 1, -1, -1)
    return next((i for i in places if (rows[i].name, rows[i].op.rpartition("::")[2]) == named), None)


def _folded(model: onnx.ModelProto) -> frozenset[str]:
    known = {tensor.name for tensor in model.graph.initializer}
    known.update(tensor.values.name for tensor in model.graph.sparse_initializer)
    for node in model.graph.node:
        named = tuple(reads(node))
        if is_constant(node) or (named and known.issuperset(named)):
            known.update(name for name in node.output if name)
    return frozenset(known)
