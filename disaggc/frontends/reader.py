"""From the protobuf to a ``Graph``."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper

from disaggc.errors import GraphError, WeightsError, listed
from disaggc.frontends.control import body_model, carried_types, constant, is_control, tensors_of
from disaggc.frontends.door import captured, check_texts, open_model
from disaggc.frontends.schemas import least_operands
from disaggc.frontends.shapes import Typed, declared_types, infer_missing
from disaggc.ir import Body, Dim, DType, Graph, Node, Value, Weight, WeightFile, verify
from disaggc.ir.graph import Attribute

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
SMALL = 64
"""Integer constants of at most this many elements are structure (axes, shapes, k): their values are kept."""

_ELEMENT_TYPES = {code: DType.__members__.get(name) for name, code in TensorProto.DataType.items()}
_NONE: MappingProxyType[str, Attribute] = MappingProxyType({})


def read_graph(path: Path, model: onnx.ModelProto | None = None) -> Graph:
    """Read an ONNX model; weights are declared, never loaded.

    Args:
        path: The .onnx file.
        model: What ``open_model(path)`` returned, if the caller has it already.

    Raises:
        ModelError: The file cannot be read, is no ONNX model, or contradicts itself.
    """
    graph = _graph(model if model is not None else open_model(path), path, path.stem)
    verify(graph)
    return graph


def _graph(model: onnx.ModelProto, path: Path, name: str) -> Graph:
    opsets = {o.domain or "ai.onnx": o.version for o in model.opset_import}
    weights = {w.name: w for w in map(_weight, model.graph.initializer)}
    nodes = tuple(map(_node, model.graph.node))
    _check_operands(nodes, opsets.get("ai.onnx", 1))
    weights.update((w.name, w) for w in _constants(model))
    inputs = tuple(i.name for i in model.graph.input if i.name not in weights)
    outputs = tuple(o.name for o in model.graph.output)
    types = _types(model, path)
    bodies = dict(_bodies(model, types, path, name))
    for i, own in bodies.items():
        weights.update(_own_weights(own, model.graph.node[i], i))
    values = _values(types, nodes)
    return Graph(
        name=name,
        source=path,
        nodes=nodes,
        values=MappingProxyType(values),
        weights=MappingProxyType(weights),
        inputs=inputs,
        outputs=outputs,
        opsets=MappingProxyType(opsets),
        warnings=(*_warnings(nodes), *_untyped(nodes, values, weights, outputs), *_of_bodies(bodies)),
        bodies=MappingProxyType(bodies),
    )


def _bodies(
    model: onnx.ModelProto, types: Typed, path: Path, name: str
) -> Iterator[tuple[int, tuple[Body, ...]]]:
    """The bodies of every control-flow node, as graphs of their own."""
    weights: dict[str, TensorProto] = {}
    for i, node in enumerate(model.graph.node):
        held = [a for a in node.attribute if a.type == AttributeProto.GRAPH] if is_control(node) else []
        if held:
            weights = weights or {tensor.name: tensor for tensor in tensors_of(model)}
            models = ((a.name, body_model(model, node, a.g, types, weights)) for a in held)
            yield i, tuple(Body(a, _graph(body, path, f"{name}/{node.name}/{a}")) for a, body in models)


def _own_weights(bodies: tuple[Body, ...], node: NodeProto, i: int) -> Iterator[tuple[str, Weight]]:
    """Weights that bodies hold for themselves, under names that no other body has."""
    outer = frozenset(captured(node))
    for body in bodies:
        for name, weight in body.graph.weights.items():
            if name not in outer:
                unique = f"{node.name or i}/{body.attribute}/{name}"
                yield unique, dataclasses.replace(weight, name=unique)


def _check_operands(nodes: tuple[Node, ...], opset: int) -> None:
    """What passes take for granted: a Gather has a table and indices, in this order."""
    for node in nodes:
        if node.domain:
            continue
        inputs, outputs = least_operands(node.op, opset)
        given, written = node.inputs[:inputs], node.outputs[:outputs]
        if "" in given or "" in written or len(given) < inputs or len(written) < outputs:
            raise GraphError(
                f"Node '{node.name}' ({node.op}) must have {inputs} inputs and {outputs} outputs at least; "
                f"it has {list(node.inputs)} and {list(node.outputs)}."
            )


def _types(model: onnx.ModelProto, path: Path) -> dict[str, bytes]:
    """The serialised type of every value, as declared or as inferred."""
    declared = declared_types(model)
    check_texts(declared, path)
    check_texts((dim for spelling in set(declared.values()) for dim in _type(spelling)[1] or ()), path)
    declared.update(infer_missing(model, declared))
    carried = carried_types(model, declared)
    if carried:
        declared.update(carried)
        declared.update(infer_missing(model, declared))
    return declared


def _values(declared: Typed, nodes: tuple[Node, ...]) -> dict[str, Value]:
    values = {name: _value(name, spelling) for name, spelling in declared.items()}
    for node in nodes:
        for name in node.outputs:
            if name and name not in values:
                values[name] = Value(name, None, None)
    return values


def _value(name: str, spelling: bytes) -> Value:
    dtype, shape = _type(spelling)
    if shape is not None and "" in shape:
        shape = tuple(f"?{name}.{i}" if dim == "" else dim for i, dim in enumerate(shape))
    return Value(name, dtype, shape)


@functools.lru_cache(maxsize=65536)
def _type(spelling: bytes) -> tuple[DType | None, tuple[Dim, ...] | None]:
    """Element type and extents ('' where unnamed) of a serialised type; large graphs repeat few types."""
    tensor = onnx.TypeProto.FromString(spelling).tensor_type
    dtype = _ELEMENT_TYPES.get(tensor.elem_type)
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, tuple(_dim(d) for d in tensor.shape.dim)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    """An extent; '' for one that is not known, which some exporters write as -1 or '?'."""
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else ""
    unknown = isinstance(dim.dim_param, str) and "?" in dim.dim_param  # damaged text is refused by its caller
    return "" if unknown else dim.dim_param


def _weight(tensor: TensorProto, name: str = "") -> Weight:
    """What a tensor declares, under its own name or the one given."""
    name = name or tensor.name
    dtype = _ELEMENT_TYPES.get(tensor.data_type)
    if dtype is None or any(dim < 0 for dim in tensor.dims):
        raise GraphError(
            f"Weight '{name}' has element type {tensor.data_type} and extents {list(tensor.dims)}."
        )
    return Weight(name, dtype, tuple(tensor.dims), _file(tensor, name), _integers(tensor, dtype, name))


def _file(tensor: TensorProto, name: str) -> WeightFile | None:
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    entries = {e.key: e.value for e in tensor.external_data}
    offset, length = entries.get("offset", "0"), entries.get("length")
    if not offset.isdecimal() or not (length is None or length.isdecimal()):
        raise WeightsError(
            f"Weight '{name}' lies at offset '{offset}', length '{length}': these are no numbers."
        )
    return WeightFile(entries.get("location", ""), int(offset), None if length is None else int(length))


def _integers(tensor: TensorProto, dtype: DType, name: str) -> tuple[int, ...] | None:
    if dtype not in (DType.INT64, DType.INT32) or tensor.data_location == TensorProto.EXTERNAL:
        return None
    if math.prod(tensor.dims) > SMALL:
        return None
    try:
        return tuple(int(i) for i in numpy_helper.to_array(tensor).reshape(-1))
    except ValueError as error:
        raise GraphError(f"Weight '{name}' does not hold what it declares: {error}.") from error


def _constants(model: onnx.ModelProto) -> Iterator[Weight]:
    """What Constant nodes hold is a weight like any other."""
    for node in model.graph.node:
        tensor = constant(node)
        if tensor is not None:
            yield _weight(tensor, node.output[0])


def _node(node: NodeProto) -> Node:
    domain = node.domain
    has_any = bool(node.attribute)
    attributes = {a.name: v for a in node.attribute if (v := _attribute(a)) is not None} if has_any else {}
    return Node(
        node.name,
        node.op_type,
        "" if domain == "ai.onnx" else domain,
        tuple(node.input),
        tuple(node.output),
        MappingProxyType(attributes) if attributes else _NONE,
        tuple(captured(node)) if has_any else (),
    )


def _attribute(attribute: AttributeProto) -> Attribute | None:
    read = _ATTRIBUTES.get(attribute.type)
    return read(attribute) if read is not None else None


_ATTRIBUTES: dict[int, Callable[[AttributeProto], Attribute]] = {
    AttributeProto.INT: lambda a: a.i,
    AttributeProto.FLOAT: lambda a: a.f,
    AttributeProto.STRING: lambda a: a.s.decode("utf-8", "replace"),
    AttributeProto.INTS: lambda a: tuple(a.ints),
    AttributeProto.FLOATS: lambda a: tuple(a.floats),
}


def _untyped(
    nodes: tuple[Node, ...],
    values: Mapping[str, Value],
    weights: Mapping[str, Weight],
    outputs: Iterable[str],
) -> Iterator[str]:
    """Values whose rank or element type nobody declares and nothing tells, by name."""
    written = (name for node in nodes for name in node.writes if name not in weights)
    unknown = [n for n in written if values[n].dtype is None or values[n].shape is None]
    if not unknown:
        return
    read = {name for node in nodes for name in node.reads}.union(outputs)
    used, idle = [n for n in unknown if n in read], [n for n in unknown if n not in read]
    if used:
        yield f"Rank or element type unknown: {listed(used)}. Declare them in value_info to have them priced."
    if idle:
        yield f"Rank or element type unknown, but nothing reads them: {listed(idle)}."


def _of_bodies(bodies: Mapping[int, tuple[Body, ...]]) -> Iterator[str]:
    """What bodies warn of, under the name of the body."""
    for body in (body for own in bodies.values() for body in own):
        yield from (f"In {body.graph.name}: {text}" for text in body.graph.warnings)


def _warnings(nodes: tuple[Node, ...]) -> Iterator[str]:
    foreign: dict[str, int] = {}
    for node in nodes:
        if node.domain not in STANDARD_DOMAINS:
            foreign[node.kind] = foreign.get(node.kind, 0) + 1
    for kind, count in sorted(foreign.items()):
        domain = kind.partition("::")[0]
        yield (
            f"Unknown op domain '{domain}': {count} x {kind} is placed with what stands around it. "
            f"Say what it does in passes/roles/*.toml."
        )
