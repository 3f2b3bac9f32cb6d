"""A configuration becomes a valid model without a weight byte, or one whose weights lie in a checkpoint."""

from __future__ import annotations

import importlib.util
import itertools
import json
import lzma
import struct
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnxruntime import InferenceSession  # type: ignore[attr-defined]  # no __all__ there

from disaggc.errors import ModelError, OutputError, WeightsError
from disaggc.frontends import Imported, ImportOptions, import_config, read_graph
from disaggc.frontends.checkpoint import read_checkpoint

RECORDED = Path(__file__).parent / "imported"
LAYERS, HIDDEN, INNER, KV, VOCABULARY = 2, 64, 128, 32, 256
PARAMETERS = (
    2 * VOCABULARY * HIDDEN
    + HIDDEN
    + LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * INNER + 2 * HIDDEN)
)
"""Of the Llama in ``imported/config.json``, in closed form."""
SHAPES = {
    "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
    "lm_head.weight": (VOCABULARY, HIDDEN),
    "model.norm.weight": (HIDDEN,),
    **{
        f"model.layers.{i}.{name}.weight": shape
        for i in range(LAYERS)
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (KV, HIDDEN),
            "self_attn.v_proj": (KV, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INNER, HIDDEN),
            "mlp.up_proj": (INNER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INNER),
        }.items()
    },
}


def recorded(config: Path, scratch: Path, options: ImportOptions) -> Path:
    """What mobius-onnx wrote for this configuration, as it came."""
    assert json.loads(config.read_text())["model_type"] == "llama"
    assert options.dtype
    for name in ("model.onnx", "model.onnx.data"):
        (scratch / name).write_bytes(lzma.decompress((RECORDED / f"{name}.xz").read_bytes()))
    return scratch / "model.onnx"


def imported(output: Path, checkpoint: Path | None = None, force: bool = False) -> Imported:
    options = ImportOptions("f32", checkpoint, force=force)
    return import_config(RECORDED / "config.json", output, options, recorded)


def checkpoint(folder: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, np.ndarray]:
    """A checkpoint of two files of random weights, as safetensors writes them."""
    draw = np.random.default_rng(7)
    folder.mkdir(exist_ok=True)
    weights = {n: draw.standard_normal(s, np.float32) / 8 for n, s in (shapes or SHAPES).items()}
    names = sorted(weights)
    for k, part in enumerate((names[::2], names[1::2])):
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        data = b""
        for name in part:
            end = len(data) + weights[name].nbytes
            header[name] = {"dtype": "F32", "shape": weights[name].shape, "data_offsets": [len(data), end]}
            data += weights[name].tobytes()
        text = json.dumps(header).encode()
        path = folder / f"model-{k}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return weights


def test_what_the_tool_writes_is_no_valid_model(tmp_path: Path) -> None:
    path = recorded(RECORDED / "config.json", tmp_path, ImportOptions())
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(str(path))


def test_weights_become_references_to_a_file_that_need_not_exist(tmp_path: Path) -> None:
    found = imported(tmp_path / "model.onnx")
    assert (found.parameters, found.weights, found.referenced, found.warnings) == (PARAMETERS, 21, 0, ())
    graph = read_graph(found.path)
    assert {name: graph.weights[name].shape for name in SHAPES} == SHAPES
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_weights_without_a_checkpoint_do_not_overlap(tmp_path: Path) -> None:
    model = onnx.load(imported(tmp_path / "model.onnx").path, load_external_data=False)
    places = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    spans = sorted((int(p["offset"]), int(p["length"])) for p in places)
    assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(spans))
    assert sum(n for _, n in spans) == 4 * PARAMETERS


def test_a_model_runs_from_its_checkpoint_and_nothing_is_copied(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "checkpoint")
    found = imported(tmp_path / "checkpoint" / "model.onnx", tmp_path / "checkpoint")
    assert (found.referenced, found.warnings) == (21, ())
    onnx.checker.check_model(str(found.path))
    assert found.path.stat().st_size < 60_000
    tensors = {t.name: t for t in onnx.load(found.path).graph.initializer}
    for name, weight in weights.items():
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensors[name]), weight)
    assert _logits(found.path).shape == (1, 3, VOCABULARY)


def _logits(path: Path) -> np.ndarray:
    past = {
        f"past_key_values.{i}.{kind}": np.zeros((1, 2, 0, 16), np.float32)
        for i in range(LAYERS)
        for kind in ("key", "value")
    }
    feeds = {
        "input_ids": np.array([[1, 2, 3]]),
        "attention_mask": np.ones((1, 3), np.int64),
        "position_ids": np.arange(3)[None],
        **past,
    }
    return np.asarray(InferenceSession(str(path)).run(None, feeds)[0])


def test_a_model_elsewhere_gets_links_to_the_weight_files(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint")
    found = imported(tmp_path / "elsewhere" / "model.onnx", tmp_path / "checkpoint")
    for file in (tmp_path / "checkpoint").iterdir():
        assert (tmp_path / "elsewhere" / file.name).samefile(file)
    assert np.isfinite(_logits(found.path)).all()


def test_another_file_of_a_weight_file_s_name_is_left_alone(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint")
    other = tmp_path / "elsewhere" / "model-0.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"Cannot link 'model-0.safetensors' .* write it there: -o "):
        imported(tmp_path / "elsewhere" / "model.onnx", tmp_path / "checkpoint")
    assert other.read_bytes() == b"mine"
    assert not (tmp_path / "elsewhere" / "model.onnx").exists()


def test_weights_that_do_not_fit_are_named_and_stay_absent(tmp_path: Path) -> None:
    shapes = {**SHAPES, "lm_head.weight": (HIDDEN, VOCABULARY)}
    del shapes["model.norm.weight"]
    checkpoint(tmp_path / "checkpoint", shapes)
    found = imported(tmp_path / "checkpoint" / "model.onnx", tmp_path / "checkpoint")
    assert found.referenced == 19
    assert found.warnings[0] == "1 weight is not in the checkpoint and stays absent: 'model.norm.weight'."
    assert "'lm_head.weight' is float [64, 256] there and float [256, 64] here" in found.warnings[1]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "its header is longer than the file"),
        (struct.pack("<Q", 10**12) + b"{}", "its header is longer than the file"),
        (struct.pack("<Q", 2) + b"{]", "its header does not read"),
        (struct.pack("<Q", 2) + b"[]", "its header does not read"),
        (struct.pack("<Q", 61) + b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}       ', "outside"),
    ],
)
def test_a_broken_weight_file_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=f"'a.safetensors' is no safetensors file: .*{why}"):
        read_checkpoint(tmp_path)


def test_a_folder_without_weight_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no .safetensors file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "Cannot read"),
        ("{", "is not JSON"),
        ("[]", "names no model_type"),
        ("{}", "names no model_type"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path: Path, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=why):
        import_config(tmp_path, tmp_path / "model.onnx", ImportOptions(), recorded)
    assert not (tmp_path / "model.onnx").exists()


def test_a_model_that_exists_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        imported(path)
    assert path.read_bytes() == b"mine"
    assert imported(path, force=True).path == path
    assert read_graph(path).nodes


def test_a_folder_as_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        imported(tmp_path)


@pytest.mark.parametrize(("ops", "asked"), [("standard", False), ("onnxruntime", True)])
def test_fused_ops_are_asked_for(
    ops: str, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        told.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ValueError: that is all")

    monkeypatch.setattr("disaggc.frontends.importing.importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr("disaggc.frontends.importing.subprocess.run", run)
    with pytest.raises(ModelError, match="that is all"):
        import_config(RECORDED, tmp_path / "model.onnx", ImportOptions(ops=ops))
    assert (told[0][-3:-1] == ["--ep", "cpu"]) is asked


@pytest.mark.skipif(importlib.util.find_spec("mobius") is not None, reason="mobius-onnx is installed here")
def test_without_the_extra_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"pip install 'disaggc\[import\]'"):
        import_config(RECORDED, tmp_path / "model.onnx", ImportOptions())


@pytest.mark.skipif(importlib.util.find_spec("mobius") is None, reason="mobius-onnx is not installed")
def test_the_tool_itself_builds_the_model(tmp_path: Path) -> None:
    fused = tmp_path / "fused.onnx"
    import_config(RECORDED, fused, ImportOptions("f32", ops="onnxruntime"))
    assert "GroupQueryAttention" in {node.op for node in read_graph(fused).nodes}
    found = import_config(RECORDED, tmp_path / "model.onnx", ImportOptions("f32"))
    assert found.parameters == PARAMETERS
    (tmp_path / "config.json").write_text('{"model_type": "nosuch"}')
    with pytest.raises(ModelError, match=r"mobius-onnx cannot build .*ValueError"):
        import_config(tmp_path, tmp_path / "other.onnx", ImportOptions())
