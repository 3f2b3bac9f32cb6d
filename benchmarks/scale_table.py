"""How seconds and memory of reading, analysing and annotating grow with a graph.

    python benchmarks/scale_table.py ../shared/models/full/*.mobius.onnx.xz ../shared/models/full/llama*.xz

A model of each size is made of the first layer and so many copies of the second, each with weights and
caches of its own. Each size is read in a process of its own; making it is not timed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from compile_table import unpacked

from disaggc.compiler import analyse
from disaggc.frontends import open_model
from disaggc.ir import Graph

SIZES = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 182_885, 226_000)
"""Nodes aimed at, in whole layers; up to twice what the model has."""

TIMED = """
import pathlib, resource, sys, time
from disaggc.compiler import analyse
start = time.perf_counter()
graph = analyse(pathlib.Path(sys.argv[1]))
seconds = time.perf_counter() - start
print(len(graph.nodes), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    """Print the table, and a bar for each row's microseconds a node."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--runs", type=int, default=1, help="runs of each size; the fastest is printed")
    options = parser.parse_args()
    print(f"{'model':24} {'layers':>7} {'ops':>8} {'seconds':>8} {'MB':>6} {'us/op':>6}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in unpacked(options.models, Path(scratch)):
            source = open_model(path)
            graph = analyse(path, source=source)
            for layers in sorted({layers_for(graph, size) for size in SIZES} - {0, 1}):
                sized = Path(scratch) / "sized.onnx"
                sized.write_bytes(with_layers(source, graph, layers).SerializeToString())
                print_row(name, sized, layers, options.runs)


def print_row(name: str, path: Path, layers: int, runs: int) -> None:
    """Measure one size and print its row."""
    told = [_run([sys.executable, "-c", TIMED, str(path)]) for _ in range(runs)]
    nodes, seconds, megabytes = min(told, key=lambda row: row[1])
    each = seconds / nodes * 1e6
    bar = "#" * round(each / 2)
    print(
        f"{name:24} {layers:>7} {nodes:>8,.0f} {seconds:>8.2f} {megabytes:>6,.0f} {each:>6.1f} {bar}",
        flush=True,
    )


def _run(command: list[str]) -> list[float]:
    done = subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603 - our own
    return [float(number) for number in done.stdout.split()]


def layers_for(graph: Graph, nodes: int) -> int:
    """How many layers come closest to so many nodes; 0 if that is far more than the model has."""
    layer = len(graph.layers[len(graph.layers) // 2].nodes)
    beside = len(graph.nodes) - sum(len(found.nodes) for found in graph.layers)
    return max(0, round((nodes - beside) / layer)) if nodes <= 2 * len(graph.nodes) else 0


def with_layers(source: onnx.ModelProto, graph: Graph, layers: int) -> onnx.ModelProto:
    """The model with its first layer, so many copies of its second as make up ``layers``, and its end."""
    nodes, of_layer = list(source.graph.node), _by_layer(graph)
    first, second, last = of_layer[0], of_layer[1], of_layer[len(graph.layers) - 1]
    written = {name for i in second for name in nodes[i].output if name}
    handed = list(zip(_read(nodes, second, first), _read(nodes, of_layer[2], second), strict=True))
    same = {
        old: new
        for i, j in zip(last, second, strict=True)
        for old, new in zip(nodes[i].output, nodes[j].output, strict=True)
    }
    inside = {i for own in of_layer.values() for i in own}
    after = _downstream(nodes, inside)
    model = _Sized(source, written)
    model.add(nodes[i] for i in range(len(nodes)) if i not in inside and i not in after)
    model.add(nodes[i] for i in first)
    renamed: dict[str, str] = {}
    for copy in range(1, layers):
        before, renamed = renamed, {name: f"{name}/{copy}" for name in written}
        renamed |= {name: before.get(given, name) for name, given in handed}
        model.add((nodes[i] for i in second), renamed, copy)
    ends = {old: renamed.get(new, new) for old, new in same.items()}
    model.add((nodes[i] for i in sorted(after)), ends)
    return model.finished()


class _Sized:
    """A model that nodes are added to, with the weights, caches and types that they need."""

    def __init__(self, source: onnx.ModelProto, written: set[str]) -> None:
        self._source = source
        self._weights = {tensor.name: tensor for tensor in source.graph.initializer}
        self._inputs = {value.name: value for value in source.graph.input}
        self._outputs = {value.name: value for value in source.graph.output}
        self._types = {value.name: value for value in source.graph.value_info}
        self._own = written
        self._seen: set[str] = set()
        self._model = onnx.ModelProto(ir_version=source.ir_version)
        self._model.opset_import.extend(source.opset_import)
        self._model.functions.extend(source.functions)

    def add(
        self, nodes: Iterable[onnx.NodeProto], names: Mapping[str, str] | None = None, copy: int = 0
    ) -> None:
        """Nodes under other names; in a copy, weights and caches get names of their own, too."""
        graph, renamed = self._model.graph, dict(names or {})
        for node in nodes:
            new = onnx.NodeProto()
            new.CopyFrom(node)
            for name in node.input:
                if copy and (name in self._weights or name in self._inputs) and name not in renamed:
                    renamed[name] = name if name in SHARED else f"{name}/{copy}"
            new.input[:] = [renamed.get(name, name) for name in node.input]
            new.output[:] = [renamed.get(name, name) for name in node.output]
            for old in (*node.input, *node.output):
                self._declare(old, renamed.get(old, old))
            graph.node.append(new)

    def _declare(self, old: str, new: str) -> None:
        if new in self._seen:
            return
        self._seen.add(new)
        graph = self._model.graph
        for known, target in (
            (self._weights, graph.initializer),
            (self._inputs, graph.input),
            (self._outputs, graph.output),
            (self._types, graph.value_info),
        ):
            if old in known:
                target.add().CopyFrom(known[old])
                target[-1].name = new

    def finished(self) -> onnx.ModelProto:
        """The model."""
        self._model.graph.name = self._source.graph.name
        return self._model


SHARED = frozenset(("input_ids", "attention_mask", "position_ids"))
"""Inputs that all layers share."""


def _by_layer(graph: Graph) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for i, mark in enumerate(graph.marks):
        if mark.layer is not None:
            found.setdefault(mark.layer, []).append(i)
    return found


def _read(nodes: list[onnx.NodeProto], layer: list[int], before: list[int]) -> list[str]:
    """What a layer reads of the one before it, in order of first read."""
    written = {name for i in before for name in nodes[i].output if name}
    return list(dict.fromkeys(name for i in layer for name in nodes[i].input if name in written))


def _downstream(nodes: list[onnx.NodeProto], layers: set[int]) -> set[int]:
    """Nodes outside layers that depend on one."""
    written = {name for i in layers for name in nodes[i].output if name}
    found = set()
    for i, node in enumerate(nodes):
        if i not in layers and not written.isdisjoint(node.input):
            found.add(i)
            written.update(node.output)
    return found


if __name__ == "__main__":
    main()
