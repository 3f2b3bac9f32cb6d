"""NVIDIA Dynamo: a DynamoGraphDeployment (nvidia.com/v1beta1) and a profile for its planner.

GPU pools become worker, prefill and decode components, LPX pools lpx components. What fields there are is
in plans/templates/dynamo/deployment.schema.json; every manifest is checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import yaml

from disaggc.backends.emitters.dynamo_manifest import (
    check_deployment,
    check_vendor,
    framework_of,
    gpu_component,
    image_values,
    namespace_of,
    verbatim,
)
from disaggc.backends.emitters.dynamo_pools import write_pools
from disaggc.backends.emitters.lpx import LpxEngine, build_contents, lpx_engine, uses_lpx
from disaggc.backends.emitters.op_table import read_ops
from disaggc.backends.emitters.order import Order, Together, Written, write_texts
from disaggc.backends.emitters.planner_profile import write_profile
from disaggc.backends.emitters.serving import (
    PREFILL,
    Engine,
    deployment_name,
    engine_on,
    engines_of,
    format_notes,
    served_checkpoint,
    shape_of,
)
from disaggc.backends.emitters.templates import render


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
        framework = framework_of(order.settings)
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

    def emit_fleet(self, together: Together, folder: Path) -> Written | None:
        """Write the tiers as pools behind one front end."""
        return write_pools(together, folder)


EMITTER = DynamoEmitter()

_START = "kubectl apply -f deployment.yaml; a planner reads profile/ as its profile_results_dir"


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
    check_vendor(engines)
    return engines


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
    component = partial(gpu_component, order.plan, framework, checkpoint, feeds_lpx=lpx is not None)
    return {
        "name": deployment_name(order),
        "namespace": namespace_of(order.settings),
        "checkpoint": verbatim(checkpoint),
        **image_values(order.settings, framework),
        "framework": framework,
        "components": [component(engine) for engine in engines],
        "lpx": None if lpx is None else _lpx_values(order, lpx),
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
        "conductors": lpx.conductors,
        "lpu_image": lpu_image,
        "conductor_image": required("conductor_image", why) if lpx.gpus is not None else lpu_image,
        "conductor_gpus": str(lpx.conductor_gpus) if lpx.conductor_gpus else None,
        "arguments": [verbatim(argument) for argument in arguments] if lpx.gpus is not None else [],
    }
