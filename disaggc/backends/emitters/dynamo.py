"""NVIDIA Dynamo: a DynamoGraphDeployment (nvidia.com/v1beta1) and a profile for its planner.

GPU pools become worker, prefill and decode components, LPX pools lpx components. What fields there are is
in plans/templates/dynamo/deployment.schema.json; every manifest is checked against it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import yaml

from disaggc.backends.emitters.engine_arguments import ARGUMENTS, TRANSFERS
from disaggc.backends.emitters.lpx import LpxEngine, build_contents, lpx_engine, uses_lpx
from disaggc.backends.emitters.op_table import read_ops
from disaggc.backends.emitters.order import Order, Written, write_texts
from disaggc.backends.emitters.planner_profile import write_profile
from disaggc.backends.emitters.serving import (
    AGGREGATED,
    PREFILL,
    Engine,
    deployment_name,
    engine_on,
    engines_of,
    format_notes,
    is_nvidia_gpu,
    served_checkpoint,
    shape_of,
)
from disaggc.backends.emitters.templates import render
from disaggc.errors import JobError, PlanError, nearest
from disaggc.library import shelf
from disaggc.plans import Plan

RELEASE = "1.6.1"
"""The Dynamo release that manifests are written for."""

IMAGES = {engine: f"nvcr.io/nvidia/ai-dynamo/{engine}-runtime:{RELEASE}" for engine in ("vllm", "sglang")}
COMPONENT_TYPES = {AGGREGATED: "worker"}
_VERSIONED = re.compile(r":v?\d+\.\d+\.\d+[^/]*$")
"""An image whose tag tells Dynamo's release; admission asks for an override where it does not."""


@dataclass(frozen=True, slots=True)
class DynamoEmitter:
    """See the module."""

    takes: ClassVar[frozenset[str]] = frozenset(
        (
            "checkpoint",
            "name",
            "namespace",
            "engine",
            "image",
            "build_id",
            "lpu_image",
            "conductor_image",
            "node_devices",
            "model",
        )
    )

    def emit(self, order: Order, folder: Path) -> Written:
        """Write deployment.yaml, profile/ for the planner, and lpx-build.md where LPUs are used."""
        framework = _framework(order)
        shape = shape_of(order.plan)
        lpx = lpx_engine(order, shape) if uses_lpx(order, shape) else None
        engines = _engines(order, lpx)
        values = _values(order, framework, engines, lpx)
        manifest = render("dynamo/deployment.yaml.j2", values)
        check_deployment(yaml.safe_load(manifest))
        texts = {"deployment.yaml": manifest}
        if lpx is not None:
            contents = build_contents(order, lpx, read_ops(order.folder))
            texts["lpx-build.md"] = render("dynamo/lpx-build.md.j2", contents)
        write_texts(folder, texts)
        notes = (*format_notes(order.plan), *(lpx.notes if lpx is not None else ()))
        return Written((*notes, *_profile(order, engines, folder)), _START)


EMITTER = DynamoEmitter()

_START = "kubectl apply -f deployment.yaml; a planner reads profile/ as its profile_results_dir"


def _framework(order: Order) -> str:
    name = order.settings.engine or "vllm"
    if name not in IMAGES:
        raise JobError(f"--engine '{name}' is none that Dynamo drives here.{nearest(name, IMAGES)}")
    return name


def _engines(order: Order, lpx: LpxEngine | None) -> tuple[Engine, ...]:
    """The components with GPUs of their own.

    Raises:
        PlanError: One of them is not of NVIDIA.
    """
    if lpx is None:
        engines = engines_of(order)
    elif lpx.prefill_pool is not None:
        engines = (engine_on(order, lpx.prefill_pool.name, PREFILL),)
    else:
        engines = ()
    for engine in engines:
        if not is_nvidia_gpu(engine.system.device):
            raise PlanError(
                f"Backend 'dynamo' deploys on NVIDIA GPUs and LPX racks; pool '{engine.pool.name}' is of "
                f"{engine.system.device.vendor} {engine.system.device.name}. {_other_backend(engine)}"
            )
    return engines


def _other_backend(engine: Engine) -> str:
    if engine.system.device.vendor == "AMD":
        return "Use --backend vllm or sglang, which have ROCm images."
    return "No serving stack that disaggc knows runs there."


def _profile(order: Order, engines: tuple[Engine, ...], folder: Path) -> tuple[str, ...]:
    """Write the planner's profile where the model is at hand to be priced; a note where it is not."""
    if not (order.model_folder / order.plan.model.file).is_file():
        return ("There is no planner profile: the model is not at hand. Name its folder with --model.",)
    write_profile(order, engines, folder / "profile")
    return ()


def _values(
    order: Order, framework: str, engines: tuple[Engine, ...], lpx: LpxEngine | None
) -> dict[str, object]:
    checkpoint = served_checkpoint(order)
    image = order.settings.image or IMAGES[framework]
    component = partial(_component, order.plan, framework, checkpoint, feeds_lpx=lpx is not None)
    return {
        "name": deployment_name(order),
        "namespace": _namespace(order),
        "checkpoint": verbatim(checkpoint),
        "image": image,
        "runtime_version": None if _VERSIONED.search(image) else RELEASE,
        "framework": framework,
        "components": [component(engine) for engine in engines],
        "lpx": None if lpx is None else _lpx_values(order, lpx),
    }


def _namespace(order: Order) -> str | None:
    name = order.settings.namespace
    if name is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise JobError(
            f"--namespace {name!r} is no name of Kubernetes. Write lower-case letters, digits and dashes."
        )
    return name


def _component(
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


def _lpx_values(order: Order, lpx: LpxEngine) -> dict[str, object]:
    why = "The plan decodes on LPUs, which run a compiled build of the model."
    required = order.settings.required
    arguments = ["--dynamo-model-name", served_checkpoint(order)]
    if lpx.prefill_pool is not None:
        arguments += ["--use-disagg-prefill", "--nixl-kv-layout", "HND"]
        arguments += ["--num-layers", str(order.plan.model.layers)]
    lpu_image = required("lpu_image", why)
    return {
        "build_id": required("build_id", why),
        "replicas": lpx.replicas,
        "lpu_image": lpu_image,
        "conductor_image": required("conductor_image", why) if lpx.gpus is not None else lpu_image,
        "conductor_gpus": str(lpx.conductor_gpus) if lpx.conductor_gpus else None,
        "arguments": [verbatim(argument) for argument in arguments] if lpx.gpus is not None else [],
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
