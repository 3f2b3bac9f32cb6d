"""From a Hugging Face configuration to a full-size ONNX model without a weight byte.

The graph is built by mobius-onnx, an extra, in a process of its own. What it writes without weights
is no valid model: weights are named in value_info alone, and its tables lie in a file beside. Here
they become initializers: references into a checkpoint's safetensors files where there is one, else
into a file that need not exist.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, external_data_helper

from disaggc.errors import ModelError, OutputError, listed
from disaggc.frontends.checkpoint import Stored, read_checkpoint
from disaggc.ir import DType

ABSENT = "weights.absent.bin"
"""The file that weights without a checkpoint point into; it need not exist."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was written.

    Attributes:
        path: The model.
        nodes, weights, parameters: How many there are in it.
        referenced: Weights that point into the checkpoint.
        warnings: What does not fit, and what that means.
    """

    path: Path
    nodes: int
    weights: int
    parameters: int
    referenced: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import.

    Attributes:
        dtype: Element type of the weights: 'bf16', 'f16' or 'f32'.
        checkpoint: Folder of safetensors files that weights point into.
        static_tokens: Length of a cache of fixed capacity; None for caches that grow.
        ops: 'standard', or 'onnxruntime' for its fused ops too: GroupQueryAttention, whose caches are
            written in place.
        force: Replace a model that exists.
        tell: Told what is being done.
    """

    dtype: str = "bf16"
    checkpoint: Path | None = None
    static_tokens: int | None = None
    ops: str = "standard"
    force: bool = False
    tell: Callable[[str], None] = lambda _: None


Build = Callable[[Path, Path, ImportOptions], Path]
"""Builds a model without weights: config.json, folder to write to, options; gives the file."""


def import_config(config: Path, output: Path, options: ImportOptions, build: Build | None = None) -> Imported:
    """Write the ONNX model of a configuration; it appears whole or not at all.

    Args:
        config: config.json, or a folder that holds one.
        output: The .onnx file. With a checkpoint it lies in the checkpoint's folder, or its weight files
            are linked beside it: ONNX lets a model point at files in its own folder only.
        options: How.
        build: What builds the graph; mobius-onnx.

    Raises:
        ModelError: The configuration does not read or cannot be built, or the extra is missing.
        WeightsError: The checkpoint does not read.
        OutputError: The output exists or cannot be written.
    """
    file = _config_file(config)
    _check_output(output, options.force)
    stored = read_checkpoint(options.checkpoint) if options.checkpoint is not None else {}
    with tempfile.TemporaryDirectory(prefix="disaggc-import.") as scratch:
        options.tell("building the graph")
        built = (build or build_with_mobius)(file, Path(scratch), options)
        options.tell("declaring its weights")
        model = onnx.load(built, load_external_data=False)
        external_data_helper.load_external_data_for_model(model, str(built.parent))
    found, warnings = declare_weights(model, stored)
    if options.checkpoint is not None:
        _bring(options.checkpoint, output.parent, {tensor.file for tensor in found.values()})
    _write(model, output)
    elements = [math.prod(t.dims) for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    return Imported(output, len(model.graph.node), len(elements), sum(elements), len(found), tuple(warnings))


def declare_weights(model: ModelProto, stored: Mapping[str, Stored]) -> tuple[dict[str, Stored], list[str]]:
    """Make initializers of the weights that a model names in value_info alone.

    Args:
        model: Changed in place.
        stored: Tensors of a checkpoint by name; empty for none.

    Returns:
        The weights that point into the checkpoint, and what to warn of.

    Raises:
        ModelError: A node reads what nobody declares.
    """
    absent = _undeclared(model)
    types = {value.name: value for value in model.graph.value_info if value.name in absent}
    missing = [name for name in absent if name not in types]
    if missing:
        raise ModelError(
            f"The built graph declares nothing of '{missing[0]}'. Please report the configuration."
        )
    found: dict[str, Stored] = {}
    unfit: list[str] = []
    offset = 0
    for name in absent:
        tensor = _tensor(types[name])
        mine = stored.get(name)
        if mine is not None and (mine.dtype, mine.shape) == (tensor.data_type, tuple(tensor.dims)):
            found[name] = mine
            _point(tensor, mine.file.name, mine.offset, mine.length)
        else:
            unfit.append(name)
            length = _nbytes(tensor)
            _point(tensor, ABSENT, offset, length)
            offset += length
        model.graph.initializer.append(tensor)
    kept = [value for value in model.graph.value_info if value.name not in types]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    return found, list(_unfit(unfit, stored, types)) if stored else []


def build_with_mobius(config: Path, scratch: Path, options: ImportOptions) -> Path:
    """The model without weights that mobius-onnx builds from a config.json.

    Raises:
        ModelError: It is not installed, or cannot build this configuration.
    """
    if importlib.util.find_spec("mobius") is None:
        raise ModelError("Importing needs mobius-onnx. Install it: pip install 'disaggc[import]'.")
    command = [sys.executable, "-m", "mobius", "build", "--config", str(config), "--no-weights"]
    command += ["--dtype", options.dtype]
    if options.static_tokens is not None:
        command += ["--static-cache", "--max-seq-len", str(options.static_tokens)]
    if options.ops == "onnxruntime":
        command += ["--ep", "cpu"]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    # The configuration is data to it; nothing of it becomes part of the command line.
    done = subprocess.run(  # noqa: S603
        [*command, str(scratch)], capture_output=True, text=True, check=False, env=quiet
    )
    path = scratch / "model.onnx"
    if done.returncode or not path.is_file():
        raise ModelError(
            f"mobius-onnx cannot build '{config}': {_reason(done.stderr)} "
            f"Check model_type and the sizes in it; 'python -m mobius list models' shows what it knows."
        )
    return path


def _reason(trace: str) -> str:
    """The line of a traceback that names the error, or its last line."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()] or ["It says nothing."]
    named = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception"))]
    return (named or lines)[-1]


def _config_file(config: Path) -> Path:
    """The configuration's file, which is checked to be one."""
    file = config / "config.json" if config.is_dir() else config
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"Cannot read configuration '{file}': {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"Configuration '{file}' is not JSON: {error}.") from error
    if not isinstance(data, dict) or not isinstance(data.get("model_type"), str):
        raise ModelError(f"'{file}' names no model_type. It must be the config.json of a Hugging Face model.")
    return file


def _check_output(output: Path, force: bool) -> None:
    if output.is_dir():
        raise OutputError(f"'{output}' is a folder. Name the file to write, such as '{output}/model.onnx'.")
    if output.exists() and not force:
        raise OutputError(f"'{output}' exists already. Choose another name, or add --force to replace it.")


def _undeclared(model: ModelProto) -> list[str]:
    """Names that nodes read and nobody gives, in order of first read."""
    given = {value.name for value in model.graph.input} | {t.name for t in model.graph.initializer}
    given.update(name for node in model.graph.node for name in node.output)
    read = dict.fromkeys(name for node in model.graph.node for name in node.input if name)
    return [name for name in read if name not in given]


def _tensor(value: onnx.ValueInfoProto) -> TensorProto:
    declared = value.type.tensor_type
    dims = [dim.dim_value for dim in declared.shape.dim]
    return TensorProto(name=value.name, data_type=declared.elem_type, dims=dims)


def _point(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _nbytes(tensor: TensorProto) -> int:
    bits: int = DType[TensorProto.DataType.Name(tensor.data_type)].bits
    return (int(math.prod(tensor.dims)) * bits + 7) // 8


def _unfit(
    names: list[str], stored: Mapping[str, Stored], types: Mapping[str, onnx.ValueInfoProto]
) -> Iterator[str]:
    """What to say of weights that do not point into the checkpoint."""
    lacking = [name for name in names if name not in stored]
    other = [name for name in names if name in stored]
    if lacking:
        verbs = ("is", "stays") if len(lacking) == 1 else ("are", "stay")
        yield f"{_count(lacking)} {verbs[0]} not in the checkpoint and {verbs[1]} absent: {listed(lacking)}."
    if other:
        mine, theirs = _tensor(types[other[0]]), stored[other[0]]
        yield (
            f"{_count(other)} of another shape or type in the checkpoint, left absent: {listed(other)}; "
            f"'{other[0]}' is {_label(theirs.dtype)} {list(theirs.shape)} there and "
            f"{_label(mine.data_type)} {list(mine.dims)} here. Try another --dtype."
        )


def _count(names: list[str]) -> str:
    return f"{len(names):,} weight{'' if len(names) == 1 else 's'}"


def _label(dtype: int | None) -> str:
    return "of a type that ONNX lacks" if dtype is None else TensorProto.DataType.Name(dtype).lower()


def _bring(checkpoint: Path, folder: Path, files: set[Path]) -> None:
    """Make the weight files reachable from the model's folder; no byte is copied.

    Raises:
        OutputError: They lie on another disk, or other files of these names are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.resolve() == folder.resolve():
        return
    for file in sorted(files):
        target = folder / file.name
        if target.exists() and target.samefile(file):
            continue
        try:
            target.hardlink_to(file.resolve())
        except OSError as error:
            raise OutputError(
                f"Cannot link '{file.name}' into '{folder}': {error.strerror}. A model may point at files of "
                f"its own folder only; write it there: -o {checkpoint / 'model.onnx'}."
            ) from error


def _write(model: ModelProto, output: Path) -> None:
    """Through a temporary file, so that an existing model is never half overwritten."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            whole = Path(folder) / output.name
            whole.write_bytes(model.SerializeToString(deterministic=True))
            whole.replace(output)
    except OSError as error:
        raise OutputError(f"Cannot write '{output}': {error.strerror}.") from error
