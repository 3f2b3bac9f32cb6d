"""Writes the skeletons in this folder from models with weights: graphs as they are, weights declared only.

    python tests/models/make.py ../shared/models

Every initializer larger than 1 KiB becomes an external tensor of a file that does not exist
('weights.bin', at a running offset); smaller ones (axes, shapes, scales) stay. Models that are
weightless already, in full/, are taken over as they are. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import lzma
import math
import shutil
from pathlib import Path

import onnx

HERE = Path(__file__).resolve().parent
KEPT_BYTES = 1024


def main() -> None:
    """Read the folder of models that the command line names; write every skeleton."""
    parser = argparse.ArgumentParser(description="Write the skeletons in tests/models.")
    parser.add_argument("models", type=Path, help="the folder with *.onnx, mobius/, genai/ and full/")
    write_all(parser.parse_args().models, HERE)


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
