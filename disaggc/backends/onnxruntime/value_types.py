"""What a model declares about its values, and what can be inferred where it declares nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

import onnx
import onnx_ir
from onnx_shape_inference import infer_symbolic_shapes

from disaggc.errors import GraphError


def value_types(source: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The type of every value that a model declares one for: inputs, outputs and value_info."""
    graph = source.graph
    groups = (graph.value_info, graph.output, graph.input)
    return {value.name: value.type for group in groups for value in group if _is_known(value.type)}


def types_of(
    names: Iterable[str], source: onnx.ModelProto, known: Mapping[str, onnx.TypeProto]
) -> dict[str, onnx.TypeProto]:
    """The type of each value: as known, as declared, as that of an initializer, or as inferred.

    Args:
        names: Values that cross between parts.
        source: The model.
        known: Types that the caller knows better.

    Raises:
        GraphError: Nothing tells the element type of a value.
    """
    found = {**_constant_types(source), **value_types(source), **known}
    wanted = list(dict.fromkeys(names))
    missing = {name for name in wanted if name not in found}
    if missing:
        found.update(_inferred(source, missing))
    for name in wanted:
        if name not in found:
            raise GraphError(
                f"Nothing declares the element type of '{name}', which crosses between two parts. "
                f"Add it to the model's value_info."
            )
    return {name: found[name] for name in wanted}


def _is_known(declared: onnx.TypeProto) -> bool:
    """Whether a declared type tells at least what the elements are."""
    if declared.WhichOneof("value") == "tensor_type":
        return declared.tensor_type.elem_type != onnx.TensorProto.UNDEFINED
    return declared.WhichOneof("value") is not None


def _constant_types(source: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    return {
        tensor.name: onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        for tensor in source.graph.initializer
    }


def _inferred(source: onnx.ModelProto, wanted: Set[str]) -> dict[str, onnx.TypeProto]:
    """Types by onnx's own inference, which joins the branches of an ``If``; else by symbolic inference.

    The latter goes on behind contrib ops, but takes one branch's extents for both. A subgraph that declares
    a wrong extent does not load, so those are left open. The model itself is left as it is.
    """
    own = onnx.shape_inference.infer_shapes(source, data_prop=True).graph.value_info
    found = {value.name: value.type for value in own if value.name in wanted and _is_known(value.type)}
    return {**_by_symbols(source, wanted - set(found)), **found}


def _by_symbols(source: onnx.ModelProto, wanted: Set[str]) -> dict[str, onnx.TypeProto]:
    if not wanted:
        return {}
    model = onnx_ir.from_proto(source)
    assert isinstance(model, onnx_ir.Model)
    model = infer_symbolic_shapes(model, warn_on_missing=False)
    found: dict[str, onnx.TypeProto] = {}
    for node in model.graph:
        for value in node.outputs:
            if value.name and value.name in wanted and value.type is not None:
                found[value.name] = _open(onnx_ir.serde.serialize_value(value).type)
    return {name: declared for name, declared in found.items() if _is_known(declared)}


def _open(declared: onnx.TypeProto) -> onnx.TypeProto:
    """The type without its extents."""
    for dim in declared.tensor_type.shape.dim:
        dim.Clear()
    return declared
