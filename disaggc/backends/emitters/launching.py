"""Launch scripts, Docker Compose and Slurm files for engines that are started by a command.

One script starts one node of one engine. Compose files and Slurm jobs run that script, so that what an
engine's arguments are is said in one place. Which node of the engine it is comes from the environment:
NODE_RANK (0 for the head) and HEAD_ADDRESS; PORT where several engines share a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.backends.emitters.engine_arguments import ARGUMENTS, TRANSFERS
from disaggc.backends.emitters.order import Order, Written, write_texts
from disaggc.backends.emitters.serving import (
    AGGREGATED,
    Engine,
    deployment_name,
    engines_of,
    format_notes,
    is_amd_gpu,
    is_nvidia_gpu,
    served_checkpoint,
)
from disaggc.backends.emitters.templates import render
from disaggc.errors import PlanError

CUDA, ROCM = "cuda", "rocm"
ENGINE_PORT = 8000
SIDE_PORT = 5600
"""First of the ports by which engines of a node hand caches over: NIXL's handshake, SGLang's bootstrap."""


@dataclass(frozen=True, slots=True)
class Stack:
    """An engine that is started by a command.

    Attributes:
        name: 'vllm' or 'sglang'; its templates are in plans/templates/<name>.
        title: For people.
        images: Device, or its platform, to the container image that has its kernels.
        check: Refuses engines that it cannot run.
    """

    name: str
    title: str
    images: Mapping[str, str]
    check: Callable[[Engine], None]


@dataclass(frozen=True, slots=True)
class LaunchEmitter:
    """Writes the files of a stack."""

    stack: Stack
    takes: ClassVar[frozenset[str]] = frozenset(("checkpoint", "name", "image", "node_devices"))

    def emit(self, order: Order, folder: Path) -> Written:
        """Write launch/, compose/ and slurm/, a file for each kind of engine, and a router before several."""
        engines = engines_of(order)
        texts: dict[str, str] = {}
        for engine in engines:
            values = _values(order, self.stack, engine)
            texts[f"launch/{engine.role}.sh"] = render(f"{self.stack.name}/launch.sh.j2", values)
            texts[f"compose/{engine.role}.yaml"] = render("launch/compose.yaml.j2", values)
            texts[f"slurm/{engine.role}.sbatch"] = render("launch/slurm.sbatch.j2", values)
        if _wants_router(engines):
            values = {"splits_phases": len(engines) > 1}
            texts["launch/router.sh"] = render(f"{self.stack.name}/router.sh.j2", values)
        write_texts(folder, texts)
        return Written((*format_notes(order.plan), *_notes(engines)), _start(engines))


def platform(engine: Engine, stack: Stack) -> str:
    """'cuda' or 'rocm'.

    Raises:
        PlanError: The stack runs on neither here.
    """
    device = engine.system.device
    if is_nvidia_gpu(device):
        return CUDA
    if is_amd_gpu(device):
        return ROCM
    raise PlanError(
        f"Backend '{stack.name}' has images for NVIDIA and AMD GPUs; pool '{engine.pool.name}' is of "
        f"{device.vendor} {device.name} ({device.kind}). Use --backend onnx, ort-package or ort-genai to "
        f"hand the cut to that vendor's own stack, or dynamo for LPX racks."
    )


def _values(order: Order, stack: Stack, engine: Engine) -> dict[str, object]:
    stack.check(engine)
    made_for = platform(engine, stack)
    checkpoint = served_checkpoint(order)
    per_node = max(1, _node_limit(order, engine) // engine.devices)
    return {
        "stack": stack.name,
        "name": f"{deployment_name(order)}-{engine.role}",
        "role": engine.role,
        "checkpoint": checkpoint,
        "mounted": checkpoint if checkpoint.startswith("/") else None,
        "arguments": (*ARGUMENTS[stack.name](engine, order.plan), *TRANSFERS[stack.name](engine)),
        "engine": engine,
        "splits_ranks": engine.nodes > 1 and engine.local_dp == 0,
        "splits_engine": engine.nodes > 1 and engine.local_dp > 0,
        "transfers": engine.role != AGGREGATED,
        "image": _image(order, stack, engine, made_for),
        "platform": made_for,
        "instances": _instances(engine, per_node),
        "array": f"0-{-(-engine.replicas // per_node) - 1}",
    }


def _image(order: Order, stack: Stack, engine: Engine, made_for: str) -> str:
    """The container image.

    Raises:
        JobError: None is known for this device, and nobody named one.
    """
    device = engine.system.device.name
    known = stack.images.get(device) or stack.images.get(made_for)
    if known and not order.settings.image:
        return known
    return order.settings.required("image", f"No {stack.title} image is known for {device}.")


def _node_limit(order: Order, engine: Engine) -> int:
    return order.settings.node_devices or engine.system.devices_per_node


def _instances(engine: Engine, per_node: int) -> list[dict[str, object]]:
    """The engines that share a node, each with devices and ports of its own."""
    count = 1 if engine.nodes > 1 else min(per_node, engine.replicas)
    width = engine.node_devices
    return [
        {
            "index": i,
            "devices": ",".join(str(d) for d in range(i * width, (i + 1) * width)),
            "device_list": [str(d) for d in range(i * width, (i + 1) * width)],
            "port": ENGINE_PORT + i,
            "side_port": SIDE_PORT + i * engine.node_devices,
        }
        for i in range(count)
    ]


def _notes(engines: tuple[Engine, ...]) -> tuple[str, ...]:
    spans = tuple(
        f"Each {e.role} engine spans {e.nodes} nodes of {e.node_devices} devices: give every node its "
        f"NODE_RANK and the HEAD_ADDRESS (the Slurm job does)."
        for e in engines
        if e.nodes > 1
    )
    if len(engines) > 1 and any(is_amd_gpu(e.system.device) for e in engines):
        return (*spans, "Caches travel by NIXL; whether your ROCm image has it is not verified.")
    return spans


def _start(engines: tuple[Engine, ...]) -> str:
    jobs = "; ".join(f"sbatch slurm/{engine.role}.sbatch" for engine in engines)
    return f"{jobs}; bash launch/router.sh" if _wants_router(engines) else jobs


def _wants_router(engines: tuple[Engine, ...]) -> bool:
    return sum(engine.replicas for engine in engines) > 1
