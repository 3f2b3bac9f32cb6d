"""Weights are mapped from the model's own files, and shared by stages."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import numpy as np, onnx, sys
from onnx import TensorProto as T, helper as h
from pathlib import Path
from disaggc.backends.onnxruntime import Part, write_subgraphs
from disaggc.plans import Stage
from disaggc.runtime.sessions import StageOpener

folder, rows = Path(sys.argv[1]), 1 << 16
with open(folder / "w.bin", "wb") as file:
    file.truncate(rows * 256 * 4)
weight = T(name="w", data_type=T.FLOAT, dims=[rows, 256], data_location=T.EXTERNAL)
weight.external_data.add(key="location", value="w.bin")
ids = h.make_tensor_value_info("x", T.INT64, [None])
outs = [h.make_tensor_value_info(y, T.FLOAT, [None, 256]) for y in "ab"]
nodes = [h.make_node("Gather", ["w", "x"], [y]) for y in "ab"]
graph = h.make_graph(nodes, "g", [ids], outs, [weight])
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)
onnx.save(model, folder / "m.onnx")
parts = [Part(f"subgraphs/{y}.onnx", (i,), ("x",), (y,)) for i, y in enumerate("ab")]
write_subgraphs(model, folder / "m.onnx", parts, folder)

def private():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

opener, before = StageOpener(folder, folder, 1), private()
for i, part in enumerate(parts):
    session = opener(Stage(i, "p", (), (), part.path, part.inputs, part.outputs))
    session.run(None, {"x": np.arange(rows)[:1000]})
print(private() - before)
"""


def test_opening_stages_over_one_weight_copies_nothing(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("Private memory is read from /proc, which this system lacks.")
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 32
