"""llm-d: values for its modelservice Helm chart, vLLM engines that prefill and decode apart or together.

Written for chart v0.4.12 (llm-d-incubation/llm-d-modelservice). An engine on one node is started by the
chart's own command; one that spans nodes is a LeaderWorkerSet whose pods run the launch script that --backend
vllm writes. Helm renders some values as templates, so what could be one is refused, not quoted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.backends.emitters.dynamo_manifest import verbatim
from disaggc.backends.emitters.engine_arguments import vllm_arguments
from disaggc.backends.emitters.order import Order, Settings, Written, write_texts
from disaggc.backends.emitters.serving import (
    AGGREGATED,
    PREFILL,
    Engine,
    deployment_name,
    engines_of,
    format_notes,
    is_amd_gpu,
    is_nvidia_gpu,
    served_checkpoint,
    slug,
)
from disaggc.backends.emitters.templates import render
from disaggc.backends.emitters.vllm import check_ranks
from disaggc.errors import JobError, PlanError

CHART = "v0.4.12"
IMAGE = "ghcr.io/llm-d/llm-d-cuda:latest"
"""That of the chart's own examples; the chart pins none."""
SERVICE_PORT, TARGET_PORT, SIDE_PORT = 8000, 8200, 5600
"""Where clients come, where an engine behind the chart's proxy listens, NIXL's handshake; the chart's own."""
OF_THE_CHART = ("--tensor-parallel-size", "--data-parallel-size")
"""Arguments that the chart's command makes of the parallelism."""
CACHES = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
"""How engines hand caches over, as in the chart's own examples."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]*")
MOUNT = "/model-cache"
"""Where the chart mounts the model's volume."""


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Where a model comes from.

    Attributes:
        uri: For the chart.
        name: What requests call it.
        path: What vLLM loads.
    """

    uri: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class LlmDEmitter:
    """See the module."""

    takes: ClassVar[frozenset[str]] = frozenset(("checkpoint", "name", "image", "node_devices"))

    def emit(self, order: Order, folder: Path) -> Written:
        """Write values.yaml."""
        engines = engines_of(order)
        for engine in engines:
            check_ranks(engine)
        write_texts(folder, {"values.yaml": render("llm-d/values.yaml.j2", _values(order, engines))})
        return Written((*format_notes(order.plan), *_notes(order)), _start(deployment_name(order)))


EMITTER = LlmDEmitter()


def _start(name: str) -> str:
    repository = "https://llm-d-incubation.github.io/llm-d-modelservice/"
    return (
        f"helm install {name} llm-d-modelservice --repo {repository} --version {CHART} -f values.yaml; the "
        f"gateway and its InferencePool are other charts of llm-d's"
    )


def _values(order: Order, engines: Sequence[Engine]) -> dict[str, object]:
    artifacts = artifacts_of(served_checkpoint(order))
    kinds = {engine.role: accelerator(engine) for engine in engines}
    spans = any(engine.nodes > 1 for engine in engines)
    return {
        "chart": CHART,
        "name": deployment_name(order),
        "model": artifacts.name,
        "label": slug(artifacts.name),
        "uri": artifacts.uri,
        "size": f"{math.ceil(order.plan.model.parameters * 2 * 1.1 / 2**30)}Gi",
        "spans": spans,
        "accelerator": kinds[engines[-1].role],
        "proxied": len(engines) > 1,
        "roles": [_role(order, engine, artifacts, len(engines) > 1, spans) for engine in engines],
        "unused": () if len(engines) > 1 else ("prefill",),
    }


def artifacts_of(checkpoint: str) -> Artifacts:
    """Where the chart gets a model: Hugging Face, a volume, or a cache of Hugging Face's on a volume.

    Raises:
        JobError: It is none of these, or could be read as a template.
    """
    scheme, _, name = checkpoint.rpartition("://")
    parts = name.split("/")
    least = {"": 1, "hf": 1, "pvc": 2, "pvc+hf": 3}.get(scheme)
    if least is None or len(parts) < least or not _PLAIN.fullmatch(name):
        raise JobError(
            f"--checkpoint {checkpoint!r} is nothing that llm-d's chart can load. Write a Hugging Face name, "
            f"pvc://CLAIM/PATH for a model on a volume, or pvc+hf://CLAIM/PATH/OWNER/NAME for a cache on one."
        )
    if scheme == "pvc":
        path = "/".join(parts[1:])
        return Artifacts(checkpoint, path, f"{MOUNT}/{path}")
    own = "/".join(parts[-2:]) if scheme == "pvc+hf" else name
    return Artifacts(f"{scheme or 'hf'}://{name}", own, own)


def accelerator(engine: Engine) -> str:
    """The chart's word for an engine's devices.

    Raises:
        PlanError: vLLM has no kernels for them here.
    """
    device = engine.system.device
    if is_nvidia_gpu(device):
        return "nvidia"
    if is_amd_gpu(device):
        return "amd"
    raise PlanError(
        f"Backend 'llm-d' deploys vLLM on NVIDIA and AMD GPUs; pool '{engine.pool.name}' is of "
        f"{device.vendor} {device.name} ({device.kind}). Use --backend onnx, ort-package or ort-genai, or "
        f"dynamo for LPX racks."
    )


def image_of(settings: Settings, kind: str) -> str:
    """The container image.

    Raises:
        JobError: None is known for the devices, or it could be read as a template.
    """
    known = settings.image or (IMAGE if kind == "nvidia" else None)
    if known is None:
        raise JobError("No llm-d image is known for AMD GPUs. Add --image.")
    if not _PLAIN.fullmatch(known):
        raise JobError(f"--image {known!r} is no name of an image.")
    return known


def _role(order: Order, engine: Engine, artifacts: Artifacts, parted: bool, spans: bool) -> dict[str, object]:
    """The section of one engine; an aggregated one is a decode section without a proxy."""
    kind = accelerator(engine)
    port = TARGET_PORT if parted and engine.role != PREFILL else SERVICE_PORT
    transfer = ["--kv-transfer-config", CACHES] if engine.role != AGGREGATED else []
    arguments = [*vllm_arguments(engine, order.plan), *transfer]
    return {
        "section": "prefill" if engine.role == PREFILL else "decode",
        "engine": engine,
        "workers": engine.nodes,
        "local": max(1, engine.local_dp),
        "kind": kind,
        "image": image_of(order.settings, kind),
        "port": port,
        "side_port": SIDE_PORT if transfer else None,
        "arguments": [verbatim(a) for a in _own(arguments)],
        "script": verbatim(_script(engine, artifacts, arguments, port)) if spans else None,
    }


def _own(arguments: Sequence[str]) -> list[str]:
    """Those that the chart's command does not make itself."""
    taken = {k for k, a in enumerate(arguments) if a in OF_THE_CHART}
    return [a for k, a in enumerate(arguments) if k not in taken and k - 1 not in taken]


def _script(engine: Engine, artifacts: Artifacts, arguments: Sequence[str], port: int) -> str:
    """One node of one engine, as --backend vllm writes it, by what a LeaderWorkerSet says of the pod."""
    values = {
        "checkpoint": artifacts.path,
        "arguments": (*arguments, "--served-model-name", artifacts.name),
        "engine": engine,
        "splits_ranks": engine.nodes > 1 and engine.local_dp == 0,
        "splits_engine": engine.nodes > 1 and engine.local_dp > 0,
        "transfers": engine.role != AGGREGATED,
    }
    own = (
        f"export NODE_RANK=${{LWS_WORKER_INDEX:-0}} HEAD_ADDRESS=${{LWS_LEADER_ADDRESS:-127.0.0.1}} "
        f"PORT={port} SIDE_PORT={SIDE_PORT}\n"
    )
    return own + render("vllm/launch.sh.j2", values).removeprefix("#!/usr/bin/env bash\n")


def _notes(order: Order) -> tuple[str, ...]:
    if order.settings.image:
        return ()
    return (f"The image is that of the chart's examples, {IMAGE}, which pins no version: name yours.",)
