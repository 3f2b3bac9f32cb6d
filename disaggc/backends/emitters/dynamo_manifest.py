"""What every manifest of Dynamo's is made of: components of GPUs, images, names, and the schema check.

What fields there are is in plans/templates/dynamo/deployment.schema.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import jsonschema

from disaggc.backends.emitters.engine_arguments import ARGUMENTS, TRANSFERS
from disaggc.backends.emitters.order import Settings
from disaggc.backends.emitters.serving import AGGREGATED, Engine, is_nvidia_gpu
from disaggc.errors import JobError, PlanError, nearest
from disaggc.library import shelf
from disaggc.plans import Plan

RELEASE = "1.6.1"
"""The Dynamo release that manifests are written for."""

IMAGES = {engine: f"nvcr.io/nvidia/ai-dynamo/{engine}-runtime:{RELEASE}" for engine in ("vllm", "sglang")}
COMPONENT_TYPES = {AGGREGATED: "worker"}
_VERSIONED = re.compile(r":v?\d+\.\d+\.\d+[^/]*$")
"""An image whose tag tells Dynamo's release; admission asks for an override where it does not."""


def framework_of(settings: Settings) -> str:
    """The engine that Dynamo drives.

    Raises:
        JobError: There is no such engine.
    """
    name = settings.engine or "vllm"
    if name not in IMAGES:
        raise JobError(f"--engine '{name}' is none that Dynamo drives here.{nearest(name, IMAGES)}")
    return name


def image_values(settings: Settings, framework: str) -> dict[str, object]:
    """The engine's image, and the release that admission asks for where its tag does not tell."""
    image = settings.image or IMAGES[framework]
    return {"image": image, "runtime_version": None if _VERSIONED.search(image) else RELEASE}


def namespace_of(settings: Settings) -> str | None:
    """The namespace of Kubernetes that was asked for.

    Raises:
        JobError: It is no name of Kubernetes.
    """
    name = settings.namespace
    if name is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise JobError(
            f"--namespace {name!r} is no name of Kubernetes. Write lower-case letters, digits and dashes."
        )
    return name


def check_vendor(engines: Iterable[Engine]) -> None:
    """Refuse engines that are not of NVIDIA.

    Raises:
        PlanError: One of them is not.
    """
    for engine in engines:
        if not is_nvidia_gpu(engine.system.device):
            raise PlanError(
                f"Backend 'dynamo' deploys on NVIDIA GPUs and LPX racks; pool '{engine.pool.name}' is of "
                f"{engine.system.device.vendor} {engine.system.device.name}. {_other_backend(engine)}"
            )


def _other_backend(engine: Engine) -> str:
    if engine.system.device.vendor == "AMD":
        return "Use --backend vllm or sglang, which have ROCm images."
    return "No serving stack that disaggc knows runs there."


def gpu_component(
    plan: Plan, framework: str, checkpoint: str, engine: Engine, *, feeds_lpx: bool
) -> dict[str, object]:
    """One component of GPUs, as the template names its parts."""
    role = engine.role
    named = ["--model" if framework == "vllm" else "--model-path", checkpoint]
    arguments = [*named, "--served-model-name", checkpoint, *ARGUMENTS[framework](engine, plan)]
    if framework == "vllm" and role != AGGREGATED:
        arguments += ["--disaggregation-mode", role]
    arguments += TRANSFERS[framework](engine)
    environment = {"VLLM_KV_CACHE_LAYOUT": "HND"} if feeds_lpx and framework == "vllm" else {}
    return {
        "name": COMPONENT_TYPES.get(role, role),
        "type": COMPONENT_TYPES.get(role, role),
        "replicas": engine.replicas,
        "nodes": engine.nodes,
        "gpus": str(engine.node_devices),
        "module": f"dynamo.{framework}",
        "arguments": [verbatim(argument) for argument in arguments],
        "environment": environment,
    }


def verbatim(argument: str) -> str:
    """An argument that Kubernetes leaves as it is: it would replace $(NAME), and take $$ for $."""
    return argument.replace("$", "$$")


def check_deployment(manifest: object) -> None:
    """Check a parsed manifest against the schema, and what a schema cannot say.

    Raises:
        PlanError: A field is unknown, missing or wrong, or two components have one name.
    """
    problem = next(iter(_validator().iter_errors(manifest)), None)
    if problem is not None:
        raise PlanError(f"DynamoGraphDeployment, at {problem.json_path}: {problem.message}.")
    assert isinstance(manifest, dict)
    names = [component["name"].lower() for component in manifest["spec"]["components"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(f"DynamoGraphDeployment: two components are called '{twice[0]}'.")


@cache
def _validator() -> jsonschema.Draft202012Validator:
    path = shelf("plans") / "templates" / "dynamo" / "deployment.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)
