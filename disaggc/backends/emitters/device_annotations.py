"""ONNX multi-device annotations: one configuration a phase, a device a pool, a pipeline stage a node.

Of IR version 11 (onnx.proto: ``ModelProto.configuration``, ``NodeProto.device_configurations``). onnx.checker
looks at none of it: unknown configurations, devices and tensors all pass. ``check_annotations`` looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from disaggc.backends.emitters.op_table import Placed
from disaggc.backends.onnxruntime.parts import constant_names, reads
from disaggc.errors import GraphError

LEAST_IR = 11


def annotate(model: onnx.ModelProto, ops: Iterable[Placed], pools: Sequence[str]) -> None:
    """Note on every node of a model where it runs, and on the model what the devices are.

    A node's sharding spec places what it writes, and the constants that it reads.

    Args:
        model: Changed in place.
        ops: Where each node runs in each phase.
        pools: The devices, in order.
    """
    model.ir_version = max(model.ir_version, LEAST_IR)
    del model.configuration[:]
    for node in model.graph.node:
        del node.device_configurations[:]
    constants = constant_names(model.graph)
    device_of = {pool: i for i, pool in enumerate(pools)}
    phases: dict[str, None] = {}
    for op in ops:
        phases.setdefault(op.phase.value)
        node = model.graph.node[op.node]
        noted = node.device_configurations.add(configuration_id=op.phase.value, pipeline_stage=op.stage)
        own = [name for name in dict.fromkeys(node.input) if name in constants]
        for name in (*own, *(name for name in node.output if name)):
            noted.sharding_spec.add(tensor_name=name, device=[device_of[op.pool]])
    for phase in phases:
        model.configuration.add(name=phase, num_devices=len(pools), device=pools)


def check_annotations(model: onnx.ModelProto) -> None:
    """Check what onnx.checker does not.

    Raises:
        GraphError: A configuration, device, stage or tensor makes no sense, or a node has none; the message
            names the node.
    """
    if model.ir_version < LEAST_IR:
        raise GraphError(f"Device annotations need IR version {LEAST_IR}; the model has {model.ir_version}.")
    known = _configurations(model)
    for i, node in enumerate(model.graph.node):
        where = f"Node {i} ({node.op_type} '{node.name}')"
        names = [noted.configuration_id for noted in node.device_configurations]
        if sorted(names) != sorted(known):
            raise GraphError(
                f"{where} is annotated for configurations {names}; the model has {sorted(known)}."
            )
        for noted in node.device_configurations:
            _check_node(node, noted, known[noted.configuration_id], where)
    for name in known:
        _check_stages(model, name)


def _configurations(model: onnx.ModelProto) -> dict[str, int]:
    """Name to number of devices."""
    found: dict[str, int] = {}
    for configuration in model.configuration:
        name, devices = configuration.name, configuration.num_devices
        if not name or name in found:
            raise GraphError(f"Two configurations are called '{name}', or one is called nothing.")
        if devices < 1 or (configuration.device and len(configuration.device) != devices):
            raise GraphError(
                f"Configuration '{name}' has {devices} devices and names {len(configuration.device)}."
            )
        found[name] = devices
    if not found:
        raise GraphError("The model has no device configuration.")
    return found


def _check_node(
    node: onnx.NodeProto, noted: onnx.NodeDeviceConfigurationProto, devices: int, where: str
) -> None:
    if not noted.HasField("pipeline_stage") or noted.pipeline_stage < 0:
        raise GraphError(f"{where} has no pipeline stage in '{noted.configuration_id}'.")
    tensors = {*node.input, *node.output} - {""}
    for spec in noted.sharding_spec:
        if spec.tensor_name not in tensors:
            raise GraphError(
                f"{where} places tensor '{spec.tensor_name}', which it neither reads nor writes."
            )
        groups = {entry.key: list(entry.value) for entry in spec.index_to_device_group_map}
        for device in spec.device:
            for each in groups.get(device, [device]):
                if not 0 <= each < devices:
                    raise GraphError(
                        f"{where} places tensor '{spec.tensor_name}' on device {each}; "
                        f"'{noted.configuration_id}' has {devices}."
                    )


def _check_stages(model: onnx.ModelProto, name: str) -> None:
    """Data flows to the same stage or a later one."""
    written: dict[str, int] = {}
    stages = [_stage(node.device_configurations, name) for node in model.graph.node]
    for i, (node, stage) in enumerate(zip(model.graph.node, stages, strict=True)):
        late = [value for value in reads(node) if written.get(value, 0) > stage]
        if late:
            raise GraphError(
                f"Node {i} ({node.op_type}) of stage {stage} in '{name}' reads '{late[0]}' of the later "
                f"stage {written[late[0]]}."
            )
        written.update(dict.fromkeys(node.output, stage))


def _stage(notes: Iterable[onnx.NodeDeviceConfigurationProto], name: str) -> int:
    return next(noted.pipeline_stage for noted in notes if noted.configuration_id == name)
