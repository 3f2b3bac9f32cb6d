"""One product as several of its columns, joined: each reads just the rows of the stored weight that it needs.

A weight that is stored by columns ([vocabulary, hidden], as embeddings and checkpoints have it) has the
weights of neighbouring columns in one run of bytes. A block refers to that run of the model's own file;
nothing is copied. What an exporter puts between the weight and the product (Transpose, Cast) is
repeated for each block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import NodeProto, helper

from disaggc.backends.onnxruntime.nodes import attribute, integers_attribute, is_standard, with_inputs
from disaggc.backends.onnxruntime.parts import reads
from disaggc.backends.onnxruntime.weights import Weights, run_of
from disaggc.ir import Value

_WEIGHT, _ORDER = 1, 4
"""Inputs of a product: its weight, and for MatMulNBits the order of the inner dimension, which is shared."""
_ALIGNED = 64
"""Blocks begin at a multiple of so many columns, so that kernels find whole vectors."""
_BLOCK = re.compile(r"/columns\[\d+:\d+\]$")


@dataclass(frozen=True, slots=True)
class Blocks:
    """A model in which a product is several.

    Attributes:
        form: The model; the product's place has the last block, all else new is behind the model's own nodes.
        made: For each block its nodes in order of execution; the last ends with what joins them all.
        values: The results of the blocks.
        spare: Nodes of the model that only the product's weight went through, which nobody reads now.
    """

    form: onnx.ModelProto
    made: tuple[tuple[int, ...], ...]
    values: tuple[Value, ...]
    spare: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a product's weights come from.

    Attributes:
        node: The product.
        chain: Indices of the nodes between the stored weight and the product, from the weight on.
        stored: Input of the product to the initializer that its elements come from.
        columns: Columns of the product.
    """

    node: NodeProto
    chain: tuple[int, ...]
    stored: dict[int, onnx.TensorProto]
    columns: int


def in_blocks(
    model: onnx.ModelProto, path: Path, index: int, result: Value | None, count: int
) -> Blocks | str:
    """A product with constant weights as ``count`` blocks of its columns, or fewer where it has few.

    Args:
        model: Read with ``load_external_data=False``; left as it is.
        path: The file it was read from.
        index: Of the product among its nodes.
        result: What is known of the value that it writes.
        count: Blocks that are wanted, 2 or more.

    Returns:
        The model with the product in blocks; or why it stays whole.
    """
    source = _source(model, Weights(model, path), index)
    if isinstance(source, str):
        return source
    if result is None or result.dtype is None or result.shape is None:
        return f"nothing tells the type of '{source.node.output[0]}'"
    drawn, blocks = _Drawn(model, index, source, result), tuple(_columns(source.columns, count))
    if len(blocks) < 2:
        return f"it has {source.columns} columns"
    for columns in blocks:
        fault = drawn.block(columns)
        if fault:
            return fault
    return drawn.joined()


def is_block(node: NodeProto) -> bool:
    """Whether a node was made for a block of columns."""
    return bool(node.output and _BLOCK.search(node.output[0]))


def is_product(node: NodeProto) -> bool:
    """Whether a node is a product of the kinds that blocks are known for."""
    return is_standard(node, "MatMul") or is_standard(node, "Gemm") or _is_packed(node)


def _is_packed(node: NodeProto) -> bool:
    return node.op_type == "MatMulNBits" and node.domain == "com.microsoft"


def _columns(extent: int, count: int) -> Iterator[range]:
    """Equal runs of whole vectors; the last has what is left."""
    size = -(-extent // (count * _ALIGNED)) * _ALIGNED
    for start in range(0, extent, size):
        yield range(start, min(start + size, extent))


def _source(model: onnx.ModelProto, weights: Weights, index: int) -> _Source | str:
    """Where the weights come from; or why they cannot be read by columns."""
    node = model.graph.node[index]
    producer = {name: i for i, each in enumerate(model.graph.node) for name in each.output if name}
    chain: list[int] = []
    name = node.input[_WEIGHT]
    while name in producer and model.graph.node[producer[name]].op_type in ("Transpose", "Cast"):
        chain.insert(0, producer[name])
        name = model.graph.node[chain[0]].input[0]
    if name not in weights:
        return f"its weight '{name}' is no initializer"
    held = weights.reference(name)
    if not _is_packed(node) and not _is_by_columns(node, [model.graph.node[i] for i in chain], held):
        return f"its weight '{name}' {list(held.dims)} has no column in one run of bytes"
    stored = {_WEIGHT: held}
    for k in range(_WEIGHT + 1, len(node.input)):
        if node.input[k] and k != _ORDER:
            if node.input[k] not in weights:
                return f"its input '{node.input[k]}' is no initializer"
            stored[k] = weights.reference(node.input[k])
    return _Source(node, tuple(chain), stored, held.dims[0])


def _is_by_columns(node: NodeProto, chain: Sequence[NodeProto], weight: onnx.TensorProto) -> bool:
    """Whether rows of a stored matrix are columns of the product."""
    turns = [each for each in chain if each.op_type == "Transpose"]
    turned = all(integers_attribute(each, "perm") in (None, (1, 0)) for each in turns)
    flips = len(turns) + (attribute(node, "transB", 0) if node.op_type == "Gemm" else 0)
    return len(weight.dims) == 2 and turned and flips % 2 == 1


class _Drawn:
    """A copy of the model in which one product is replaced, block by block."""

    def __init__(self, model: onnx.ModelProto, index: int, source: _Source, result: Value) -> None:
        self._model, self._form = model, onnx.ModelProto()
        self._form.CopyFrom(model)
        self._index, self._source, self._result = index, source, result
        self._open = (result.shape or ())[:-1]
        self._made: list[tuple[int, ...]] = []
        self._values: list[Value] = []

    def block(self, columns: range) -> str:
        """Add a block; why it can't be, '' if it is."""
        node, suffix = self._source.node, f"/columns[{columns.start}:{columns.stop}]"
        inputs, output = list(node.input), f"{node.output[0]}{suffix}"
        for k, tensor in self._source.stored.items():
            if k == _WEIGHT or math.prod(tensor.dims) != 1:  # one number would be for all columns
                rows = _rows(tensor, self._source.columns, columns, f"{tensor.name}{suffix}")
                if rows is None:
                    return f"'{tensor.name}' {list(tensor.dims)} has no column in one run of bytes"
                self._form.graph.initializer.append(rows)
                inputs[k] = rows.name
        made = list(self._through(inputs, suffix))
        sized = {"N": len(columns)} if _is_packed(node) else None
        product = with_inputs(node, inputs, [output], sized)
        if columns.stop < self._source.columns:
            made.append(self._add(product, output))
        else:  # the last goes by the model's own name, and in its place
            self._form.graph.node[self._index].CopyFrom(product)
            made.append(self._index)
        self._made.append(tuple(made))
        self._values.append(replace(self._result, name=output, shape=(*self._open, len(columns))))
        return ""

    def _through(self, inputs: list[str], suffix: str) -> Iterator[int]:
        """Repeat what is between weight and product; ``inputs`` of the product end with its result."""
        for i in self._source.chain:
            step = self._model.graph.node[i]
            output = f"{step.output[0]}{suffix}"
            yield self._add(with_inputs(step, [inputs[_WEIGHT]], [output]), output)
            inputs[_WEIGHT] = output

    def joined(self) -> Blocks:
        """The model, once all blocks are there."""
        output = self._source.node.output[0]
        join = helper.make_node("Concat", [value.name for value in self._values], [output], axis=-1)
        last = (*self._made[-1], self._add(join, f"{output}/join"))
        return Blocks(self._form, (*self._made[:-1], last), tuple(self._values), self._spare())

    def _spare(self) -> frozenset[int]:
        """Of the nodes between weight and product those that nobody else reads."""
        nodes, given = self._form.graph.node, {value.name for value in self._form.graph.output}
        found = {self._index}
        for i in reversed(self._source.chain):
            output = nodes[i].output[0]
            readers = {j for j, node in enumerate(self._model.graph.node) if output in reads(node)}
            if not readers <= found or output in given:
                break
            found.add(i)
        return frozenset(found - {self._index})

    def _add(self, node: NodeProto, name: str) -> int:
        node.name = name
        self._form.graph.node.append(node)
        return len(self._form.graph.node) - 1


def _rows(tensor: onnx.TensorProto, columns: int, wanted: range, name: str) -> onnx.TensorProto | None:
    """What belongs to some columns, where it is stored by columns."""
    each, rest = divmod(math.prod(tensor.dims), columns)
    if rest:
        return None
    dims = list(tensor.dims)
    axis = dims.index(columns) if columns in dims else 0
    if math.prod(dims[:axis]) != 1 or dims[axis] % columns:
        return None
    dims[axis] = dims[axis] * len(wanted) // columns
    return run_of(tensor, range(wanted.start * each, wanted.stop * each), dims, name)
