"""Writes the skeletons in this folder from models with weights: graphs as they are, weights declared only.

    python tests/models/make.py ../shared/models
    python tests/models/make.py --others FOLDER

Every initializer larger than 1 KiB becomes an external tensor of a file that does not exist
('weights.bin', at a running offset); smaller ones (axes, shapes, scales) stay. Models that are
weightless already, in full/, are taken over as they are. ``--others`` takes the .onnx files of a folder of
unpacked packages (others/README.md) and sets their large weights to zero where they stand, in Constant nodes
and bodies, too. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import lzma
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

HERE = Path(__file__).resolve().parent
KEPT_BYTES = 1024
LEAST_BYTES = 100_000


def main() -> None:
    """Read the folder of models that the command line names; write every skeleton."""
    parser = argparse.ArgumentParser(description="Write the skeletons in tests/models.")
    parser.add_argument("models", type=Path, help="the folder with *.onnx, mobius/, genai/ and full/")
    parser.add_argument("--others", action="store_true", help="the folder holds packages of other graphs")
    options = parser.parse_args()
    if options.others:
        write_others(options.models, HERE / "others")
    else:
        write_all(options.models, HERE)


def write_others(packages: Path, out: Path) -> None:
    """Every model of at least 100 kB in a folder of packages, its large weights zero."""
    for path in sorted(packages.rglob("*.onnx")):
        if path.stat().st_size >= LEAST_BYTES:
            model = onnx.load(path)
            for tensor in _tensors(model.graph):
                _blank(tensor)
            packed = lzma.compress(model.SerializeToString(deterministic=True), preset=9)
            name = "magika" if "magika" in str(path) else path.stem
            (out / f"{name}.onnx.xz").write_bytes(packed)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and what Constant nodes hold, in bodies as well."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _blank(tensor: onnx.TensorProto) -> None:
    """Zeros instead of a large tensor of floats, in the same number of bytes."""
    values = onnx.numpy_helper.to_array(tensor)
    if values.dtype.kind == "f" and values.nbytes > KEPT_BYTES:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(values), tensor.name))


def write_all(models: Path, out: Path) -> None:
    """One skeleton for every model under ``models``."""
    for path in sorted(models.glob("*.onnx")):
        write(path, out / f"{path.stem}.onnx.xz")
    for path in sorted(models.glob("*/*/model.onnx")):
        write(path, out / f"{path.parts[-3]}.{path.parts[-2]}.onnx.xz")
    for path in sorted(models.glob("full/*.onnx.xz")):
        shutil.copyfile(path, out / f"full.{path.name}")


def write(path: Path, to: Path) -> None:
    """The skeleton of one model, compressed."""
    model = onnx.load(path, load_external_data=False)
    strip(model)
    to.write_bytes(lzma.compress(model.SerializeToString(deterministic=True), preset=9))


def strip(model: onnx.ModelProto) -> None:
    """Declare large initializers where no bytes are, in place."""
    offset = 0
    for tensor in model.graph.initializer:
        length = _stored_bytes(tensor)
        if length > KEPT_BYTES:
            tensor.CopyFrom(_declared(tensor, offset, length))
            offset += length


def _declared(tensor: onnx.TensorProto, offset: int, length: int) -> onnx.TensorProto:
    declared = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    declared.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", length)):
        declared.external_data.add(key=key, value=str(value))
    return declared


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    """Its size, whether its bytes are in the model file or beside it; no model here packs sub-byte types."""
    size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * size)


if __name__ == "__main__":
    main()
