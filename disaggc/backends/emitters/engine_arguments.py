"""The arguments of vLLM and SGLang for one engine; what differs from node to node is left out.

Names are those of vLLM 0.31 to 0.33 and SGLang 0.5.21 to 0.5.23 (tests/emitters/published holds the lists).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from disaggc.backends.emitters.serving import AGGREGATED, DECODE, PREFILL, Engine
from disaggc.errors import PlanError
from disaggc.plans import Plan

NATIVE = ("as stored", "bf16", "fp16")
VLLM_CACHES: Mapping[str, str] = {"fp8": "fp8", "nvfp4": "nvfp4"}
SGLANG_CACHES: Mapping[str, str] = {"fp8": "fp8_e4m3", "nvfp4": "nvfp4"}

Arguments = list[str]


def vllm_arguments(engine: Engine, plan: Plan) -> Arguments:
    """Of ``vllm serve`` and ``dynamo.vllm``, without the model.

    Raises:
        PlanError: vLLM has no such cache format.
    """
    found = ["--tensor-parallel-size", str(engine.tp)]
    if engine.pp > 1:
        found += ["--pipeline-parallel-size", str(engine.pp)]
    if engine.dp > 1:
        found += ["--data-parallel-size", str(engine.dp)]
    if engine.expert_parallel:
        found.append("--enable-expert-parallel")
    found += ["--max-model-len", str(engine.context_tokens)]
    if engine.requests is not None:
        found += ["--max-num-seqs", str(engine.requests)]
    if engine.batched_tokens is not None:
        found += ["--max-num-batched-tokens", str(max(engine.batched_tokens, engine.requests or 0))]
    found += ["--gpu-memory-utilization", f"{engine.memory_share:g}"]
    return found + _cache(plan, VLLM_CACHES, "vLLM")


def vllm_transfer(engine: Engine) -> Arguments:
    """How a vLLM engine hands its caches over."""
    if engine.role == AGGREGATED:
        return []
    config = {"kv_connector": "NixlConnector", "kv_role": _KV_ROLES[engine.role]}
    return ["--kv-transfer-config", json.dumps(config, separators=(",", ":"))]


_KV_ROLES: Mapping[str, str] = {PREFILL: "kv_producer", DECODE: "kv_consumer"}


def sglang_arguments(engine: Engine, plan: Plan) -> Arguments:
    """Of ``sglang.launch_server`` and ``dynamo.sglang``, without the model.

    SGLang's tensor-parallel group is all devices of a pipeline stage; attention is data-parallel in it.
    0.5.23 calls that --attn-dp-size, and takes the older spelling, the only one of 0.5.21, until 2026-12-31.

    Raises:
        PlanError: SGLang has no such cache format.
    """
    stage_devices = engine.tp * engine.dp
    found = ["--tp-size", str(stage_devices)]
    if engine.pp > 1:
        found += ["--pp-size", str(engine.pp)]
    if engine.dp > 1:
        found += ["--dp-size", str(engine.dp), "--enable-dp-attention"]
    if engine.expert_parallel:
        found += ["--ep-size", str(stage_devices)]
    found += ["--context-length", str(engine.context_tokens)]
    if engine.requests is not None:
        found += ["--max-running-requests", str(engine.requests * engine.dp)]
    if engine.batched_tokens is not None:
        found += ["--chunked-prefill-size", str(engine.batched_tokens)]
    found += ["--mem-fraction-static", f"{engine.static_share:g}"]
    return found + _cache(plan, SGLANG_CACHES, "SGLang")


def sglang_transfer(engine: Engine) -> Arguments:
    """How an SGLang engine hands its caches over."""
    if engine.role == AGGREGATED:
        return []
    return ["--disaggregation-mode", engine.role, "--disaggregation-transfer-backend", "nixl"]


def _cache(plan: Plan, names: Mapping[str, str], stack: str) -> Arguments:
    kv = plan.formats.kv
    if kv in NATIVE:
        return []
    if kv not in names:
        raise PlanError(
            f"The plan keeps KV caches in {kv}, which {stack} does not have. "
            f"Compile with kv = one of {', '.join((*NATIVE, *names))}."
        )
    return ["--kv-cache-dtype", names[kv]]


ARGUMENTS: Mapping[str, Callable[[Engine, Plan], Arguments]] = {
    "vllm": vllm_arguments,
    "sglang": sglang_arguments,
}
TRANSFERS: Mapping[str, Callable[[Engine], Arguments]] = {"vllm": vllm_transfer, "sglang": sglang_transfer}
