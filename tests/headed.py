"""A small decoder with the LM head that a test wants, on a machine whose head takes long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from known_machine import KERNELS, known_job, known_library, known_system
from onnx import NodeProto, TensorProto, helper, numpy_helper

from disaggc.backends.probes import decoder
from disaggc.compiler import Options, compile_job
from disaggc.plans import Plan

HIDDEN, VOCABULARY, LAYERS = 64, 4096, 3
EMBEDDING, HEAD = "embed", "head"


def headed(path: Path, form: str = "tied", external: bool = True) -> Path:
    """Write a decoder.

    Args:
        path: The file.
        form: 'tied' (Transpose of the embedding), 'softcap' (the same, capped), 'cast' (stored in float16),
            'gemm' (transB and a bias), 'normed' (a norm before it), 'columns' ([hidden, vocabulary]), 'two'
            (products one by one).
        external: Whether weights lie in a file beside it.
    """
    model = onnx.load_from_string(decoder(LAYERS, HIDDEN, VOCABULARY))
    nodes = list(model.graph.node)
    stream = nodes[-1].input[0]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    if form != "columns":
        del model.graph.node[-1]
        model.graph.initializer.remove(weights[HEAD])
        made, constants = _FORMS[form](stream)
        model.graph.node.extend(made)
        model.graph.initializer.extend(constants)
    if external:
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=2048)
    else:
        onnx.save(model, path)
    return path


def planned(
    path: Path, folder: Path, micro_batches: int = 3, mode: str = "afd", bytes_per_s: float = 1e9
) -> Plan:
    """Compile it for two executors that stream weights that fast: so slow that a small head takes long."""
    rates = {**KERNELS.bytes_per_s, "gemm": bytes_per_s}
    slow = replace(KERNELS, bytes_per_s=rates, main_bytes_per_s=bytes_per_s)
    systems = [known_system(name, kernels=slow) for name in ("here", "there")]
    options = Options(library=known_library(folder.parent / "library", *systems), force=True)
    return compile_job(known_job(path.name, mode, micro_batches), path.parent, folder, options)


Made = tuple[list[NodeProto], list[TensorProto]]


def _tied(stream: str, to: str = "logits") -> Made:
    return [
        helper.make_node("Transpose", [EMBEDDING], ["turned"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", [stream, "turned"], [to], name="project"),
    ], []


def _softcap(stream: str) -> Made:
    nodes, _ = _tied(stream, "raw")
    capped = [
        helper.make_node("Div", ["raw", "cap"], ["small"], name="down"),
        helper.make_node("Tanh", ["small"], ["bent"], name="bend"),
        helper.make_node("Mul", ["bent", "cap"], ["logits"], name="up"),
    ]
    return [*nodes, *capped], [numpy_helper.from_array(np.array(5, np.float32), "cap")]


def _cast(stream: str) -> Made:
    nodes = [
        helper.make_node("Cast", ["half"], ["wide"], name="widen", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["turned"], name="turn"),
        helper.make_node("MatMul", [stream, "turned"], ["logits"], name="project"),
    ]
    return nodes, [numpy_helper.from_array(_drawn(VOCABULARY, HIDDEN).astype(np.float16), "half")]


def _gemm(stream: str) -> Made:
    nodes = [
        helper.make_node("Shape", [stream], ["extents"], name="measure", end=2),
        helper.make_node("Concat", ["extents", "width"], ["target"], name="aim", axis=0),
        helper.make_node("Reshape", [stream, "flat"], ["rows"], name="flatten"),
        helper.make_node("Gemm", ["rows", "matrix", "bias"], ["scores"], name="project", transB=1),
        helper.make_node("Reshape", ["scores", "target"], ["logits"], name="unflatten"),
    ]
    constants = {
        "matrix": _drawn(VOCABULARY, HIDDEN),
        "bias": _drawn(VOCABULARY),
        "flat": np.array([-1, HIDDEN]),
        "width": np.array([VOCABULARY]),
    }
    return nodes, [numpy_helper.from_array(array, name) for name, array in constants.items()]


def _normed(stream: str) -> Made:
    norm = helper.make_node("LayerNormalization", [stream, "scale"], ["normed"], name="norm", axis=-1)
    nodes, _ = _tied("normed")
    return [norm, *nodes], [numpy_helper.from_array(_drawn(HIDDEN), "scale")]


def _two(stream: str) -> Made:
    nodes = [
        helper.make_node("MatMul", [stream, "dense"], ["deep"], name="deepen"),
        helper.make_node("Transpose", [EMBEDDING], ["turned"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["deep", "turned"], ["logits"], name="project"),
    ]
    return nodes, [numpy_helper.from_array(_drawn(HIDDEN, HIDDEN), "dense")]


def _drawn(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


_FORMS = {"tied": _tied, "softcap": _softcap, "cast": _cast, "gemm": _gemm, "normed": _normed, "two": _two}
