"""What the schemas that onnx ships say of standard ops."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import onnx.defs


@dataclass(frozen=True, slots=True)
class Signature:
    """The names that an op's schema gives its inputs, outputs and attributes, newest opset."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: frozenset[str]


@functools.lru_cache(maxsize=4096)
def least_operands(op: str, opset: int) -> tuple[int, int]:
    """How many inputs and outputs a standard op needs at least; none if ``opset`` has no such op.

    What stands before one that is needed may itself be left out ('' as the trips of a Loop): those that may
    not are counted.
    """
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return 0, 0
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    inputs = [parameter.option for parameter in schema.inputs]
    return schema.min_input if optional not in inputs[: schema.min_input] else 0, schema.min_output


@functools.cache
def onnx_signatures() -> Mapping[str, Signature]:
    """Op type to signature, for every op of the standard domain."""
    latest: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        known = latest.get(schema.name)
        if schema.domain == "" and (known is None or schema.since_version > known.since_version):
            latest[schema.name] = schema
    return {
        name: Signature(
            tuple(i.name for i in schema.inputs),
            tuple(o.name for o in schema.outputs),
            frozenset(schema.attributes),
        )
        for name, schema in sorted(latest.items())
    }
