"""Parts compute nothing that is known, that their pool has computed, or that nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession  # type: ignore[attr-defined]  # no __all__ there

from disaggc.backends.cutting import cut
from disaggc.backends.onnxruntime import Part, alive, boundary, tidied, write_subgraphs
from disaggc.ir import BATCH, CACHED, NEW, DType, Graph, Value
from disaggc.passes.contents import contents
from disaggc.frontends import read_graph

Dims = Sequence[int | str]


def _model(
    nodes: Sequence[onnx.NodeProto], x: Dims, outputs: Sequence[str], integers: dict[str, list[int]] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tidy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in (integers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
