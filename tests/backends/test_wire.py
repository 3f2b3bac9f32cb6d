from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from disaggc.backends.onnxruntime.wire import embedded_weights
from disaggc.errors import NotOnnxError

from .toys import WEIGHT, chain, model, weight


def save(source: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "toy.onnx"
    onnx.save(source, path)
    return path


def test_raw_bytes_are_found_where_they_lie(tmp_path: Path) -> None:
    path = save(chain(), tmp_path)
    span = embedded_weights(path)["w"]
    assert path.read_bytes()[span.offset : span.offset + span.length] == WEIGHT.tobytes()


def test_packed_floats_are_raw_bytes_too(tmp_path: Path) -> None:
    packed = TensorProto(name="f", data_type=TensorProto.FLOAT, dims=[4], float_data=[1, 2, 3, 4])
    path = save(model([], [weight(), packed]), tmp_path)
    span = embedded_weights(path)["f"]
    data = path.read_bytes()[span.offset : span.offset + span.length]
    assert data == np.array([1, 2, 3, 4], np.float32).tobytes()


def test_varints_have_no_place(tmp_path: Path) -> None:
    varints = TensorProto(name="i", data_type=TensorProto.INT64, dims=[2], int64_data=[1, 300])
    assert "i" not in embedded_weights(save(model([], [varints]), tmp_path))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = save(chain(), tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(NotOnnxError, match=r"'toy.onnx' ends before the model does. Fetch or export"):
        embedded_weights(path)


def test_every_embedded_weight_of_a_real_model_is_found(shared_models: Path) -> None:
    path = shared_models / "qwen3_moe.gqa_moe.onnx"
    data = path.read_bytes()
    spans = embedded_weights(path)
    for tensor in onnx.load(path).graph.initializer:
        span = spans[tensor.name]
        assert data[span.offset : span.offset + span.length] == tensor.raw_data
