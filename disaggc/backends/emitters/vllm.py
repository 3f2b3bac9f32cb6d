"""vLLM: ``vllm serve`` for each engine, ``vllm-router`` before engines that prefill and decode apart."""

from __future__ import annotations

from disaggc.backends.emitters.launching import CUDA, ROCM, LaunchEmitter, Stack
from disaggc.backends.emitters.serving import Engine
from disaggc.errors import PlanError

RELEASE = "0.33.0"


def check_ranks(engine: Engine) -> None:
    """Refuse data-parallel ranks that span nodes.

    Raises:
        PlanError: They do.
    """
    if engine.dp > 1 and engine.local_dp == 0:
        raise PlanError(
            f"Backend 'vllm' keeps each data-parallel rank within a node; the plan's {engine.dp} ranks have "
            f"{engine.tp} x {engine.pp} devices each, a node of '{engine.pool.name}' {engine.node_devices}. "
            f"Use --backend sglang, or say --node-devices if nodes are larger."
        )


EMITTER = LaunchEmitter(
    Stack(
        name="vllm",
        title="vLLM",
        images={CUDA: f"vllm/vllm-openai:v{RELEASE}", ROCM: f"vllm/vllm-openai-rocm:v{RELEASE}"},
        check=check_ranks,
    )
)
