"""Every form that a plan is written out in; imports nothing, so that the command can list them at once.

To add one: a module in ``emitters`` with an ``EMITTER``, templates in plans/templates/<name>, a line here.
"""

from __future__ import annotations

from collections.abc import Mapping

BACKENDS: Mapping[str, tuple[str, str]] = {
    "dynamo": ("dynamo", "NVIDIA Dynamo on Kubernetes: graph deployment, planner profile, LPX components"),
    "vllm": ("vllm", "vLLM: launch scripts, Docker Compose and Slurm files"),
    "sglang": ("sglang", "SGLang: launch scripts, Docker Compose and Slurm files"),
    "llm-d": ("llm_d", "llm-d: values for its modelservice Helm chart, with vLLM"),
    "afd-plugin": ("afd_plugin", "vLLM's AFD plugin: configuration and rank maps for GPU pools"),
    "onnx": ("annotated_onnx", "the model with ONNX multi-device annotations"),
    "ort-package": ("ort_package", "the subgraphs as an ONNX Runtime model package"),
    "ort-genai": ("ort_genai", "the subgraphs as an onnxruntime-genai decoder pipeline"),
}
"""Name to module and what it is."""
