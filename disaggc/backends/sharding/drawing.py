"""A graph in the making: nodes are added in order of execution, and what nothing reads is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import NodeProto, TensorProto, helper

from disaggc.backends.onnxruntime.parts import reads


class Drawing:
    """Nodes and the constants made for them."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._names: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether a node here writes the value, or it is a constant made here."""
        return name in self._names or name in self.constants

    def add(self, node: NodeProto) -> None:
        """Add a node as it is."""
        self.nodes.append(node)
        self._names.update(name for name in node.output if name)

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: int) -> str:
        """Add one of ONNX's own ops with one output, unless that is there already; returns the output."""
        if not self.has(output):
            node = helper.make_node(kind, inputs, [output], name=output)
            node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
            self.add(node)
        return output

    def integers(self, values: Sequence[int]) -> str:
        """A constant list of integers."""
        name = f"shard/integers/{','.join(map(str, values))}"
        self.constants[name] = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        return name

    def scalar(self, value: float, data_type: int) -> str:
        """A constant without axes."""
        name = f"shard/scalar/{value!r}/{data_type}"
        self.constants[name] = helper.make_tensor(name, data_type, [], [value])
        return name

    def total(self, terms: Sequence[str], output: str) -> str:
        """The sum of tensors of one shape, added from the first to the last."""
        if len(terms) == 1:
            return self.op("Identity", terms, output)
        done = terms[0]
        for k, term in enumerate(terms[1:], 1):
            last = k == len(terms) - 1
            done = self.op("Add", [done, term], output if last else f"{output}/sum{k}")
        return done

    def needed(self, outputs: Iterable[str]) -> list[NodeProto]:
        """The nodes that the outputs come from, in order."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output):
                kept.append(node)
                wanted.update(reads(node))
        return kept[::-1]


def model_of(
    source: onnx.ModelProto,
    name: str,
    nodes: Iterable[NodeProto],
    inputs: Mapping[str, onnx.TypeProto],
    outputs: Mapping[str, onnx.TypeProto],
) -> onnx.ModelProto:
    """A model with the opsets and functions of another; its initializers are still to come."""
    model = onnx.ModelProto(ir_version=source.ir_version, producer_name="disaggc")
    model.opset_import.extend(source.opset_import)
    model.functions.extend(source.functions)
    model.graph.name = name
    model.graph.node.extend(nodes)
    for target, values in ((model.graph.input, inputs), (model.graph.output, outputs)):
        target.extend(onnx.ValueInfoProto(name=n, type=t) for n, t in values.items())
    return model
