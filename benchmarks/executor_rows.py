"""The rows of executors_table.py: what each of them runs, in a process of its own.

A row opens what it needs, says "ready", and then decodes once for every line that it is sent, so that
all rows are open at a time and take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from disaggc.plans import Plan, open_plan
from disaggc.runtime import Execution, RunResult, deploy, deploy_reference
from disaggc.runtime.driver import Deployment

PROMPT = (7, 3, 11, 5, 2, 13)
WARM_UP_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """A way to decode.

    Attributes:
        name: As printed.
        kind: 'whole', 'split', 'processes' or 'genai'.
        requests: At a time, in each replica.
        threads: Of each executor.
        replicas: Processes that each do the whole of it.
        micro_batches: In flight.
        baseline: The row that its ratio is to.
        cores: Threads that compute at a time, all together.
        layers: Of a plan with attention and FFN apart, in which layers: 'all', or 'some'.
    """

    name: str
    kind: str = "whole"
    requests: int = 1
    threads: int = 1
    replicas: int = 1
    micro_batches: int = 1
    baseline: str = "one session"
    cores: int = 1
    layers: str = ""

    @property
    def way(self) -> str:
        """What it is whatever the layers."""
        return self.name.partition(", ")[0]


def _apart(layers: str) -> Iterator[Row]:
    """A plan with attention and FFN apart: in one process, and in two with ping-pong."""
    yield Row(f"in process, {layers}", "split", layers=layers)
    for m in (1, 2, 3):
        yield Row(
            f"m={m}, {layers}",
            "processes",
            requests=m,
            micro_batches=m,
            baseline=f"m=1, {layers}",
            cores=2,
            layers=layers,
        )


ROWS = (
    Row("one session"),
    Row("two threads", threads=2, cores=2),
    Row("batch 2", requests=2),
    Row("two replicas", replicas=2, cores=2),
    Row("genai", "genai"),
    *_apart("all"),
    *_apart("some"),
)
"""As printed; a baseline comes before the rows whose ratio is to it."""

_BEFORE = ("two threads", "batch 2", "two replicas", "genai")
_CLOSE = ("in process, all", "one session", "in process, some")
_AFTER = ("m=2, some", "m=1, some", "m=3, some", "m=3, all", "m=1, all", "m=2, all")


def in_turns(times: int) -> tuple[str, ...]:
    """The order in which rows take turns: one that is aimed at is next to the one that its ratio is to.

    Args:
        times: Turns of the rows that differ by hundredths, forwards and backwards.
    """
    close = [_CLOSE[:: -1 if turn % 2 else 1] for turn in range(times)]
    return (*_BEFORE, *itertools.chain(*close), *_AFTER)


@dataclass(frozen=True, slots=True)
class Ran:
    """One decode of a row.

    Attributes:
        tokens_per_s: Decoded.
        step_us: Wall-clock of a step of one micro-batch, those of others meanwhile not counted out.
        inside_us: Pool to time of such a step within onnxruntime; empty where nobody can tell.
        calls: Calls of sessions in such a step.
        messages: What crosses between pools in it.
        nbytes: Their bytes.
        cpu: Processor time over wall-clock of the row's own process.
    """

    tokens_per_s: float
    step_us: float
    inside_us: dict[str, float]
    calls: float
    messages: float
    nbytes: float
    cpu: float


class Decoder(Protocol):
    """What a row's process keeps open."""

    def decode(self, new_tokens: int) -> Ran:
        """Decode once."""

    def close(self) -> None:
        """Let it go."""


class Executors:
    """A plan, or the uncut model, by disaggc's own runtime."""

    def __init__(self, row: Row, plan: Plan, folder: Path, models: Path) -> None:
        here = Execution(
            on="processes" if row.kind == "processes" else "local",
            micro_batch=max(row.requests // row.micro_batches, 1),
            micro_batches=row.micro_batches,
            kv_tokens=1 << 20,
        )
        self._prompts = [PROMPT] * row.requests
        self._deployment: Deployment = (
            deploy_reference(plan, models, row.threads)
            if row.kind == "whole"
            else deploy(plan, folder, models, row.threads, here)
        )

    def decode(self, new_tokens: int) -> Ran:
        """Decode every request."""
        cpu = time.process_time()
        result = self._deployment.generate(self._prompts, new_tokens)
        took = result.prefill.seconds + result.decode.seconds
        return _ran(result, (time.process_time() - cpu) / took)

    def close(self) -> None:
        """Let the executors go."""
        self._deployment.close()


class Genai:
    """An onnxruntime-genai pipeline that was emitted from a plan."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai  # an extra

        self._genai: Any = onnxruntime_genai
        self._model = self._genai.Model(str(folder))

    def decode(self, new_tokens: int) -> Ran:
        """Decode one request; the prompt is not counted."""
        settings = self._genai.GeneratorParams(self._model)
        settings.set_search_options(max_length=len(PROMPT) + new_tokens, do_sample=False, batch_size=1)
        generator = self._genai.Generator(self._model, settings)
        generator.append_tokens([list(PROMPT)])
        generator.generate_next_token()
        start, cpu, made = time.perf_counter(), time.process_time(), 0
        while not generator.is_done():
            generator.generate_next_token()
            made += 1
        took = time.perf_counter() - start
        rate = made / took
        return Ran(rate, 1e6 / rate, {}, 0, 0, 0, (time.process_time() - cpu) / took)

    def close(self) -> None:
        """Nothing to do."""


def _ran(result: RunResult, cpu: float) -> Ran:
    steps = result.decode.steps
    inside: dict[str, float] = {}
    for stage in result.stages:
        if stage.phase == "decode":
            inside[stage.pool] = inside.get(stage.pool, 0.0) + stage.seconds / steps * 1e6
    return Ran(
        result.decode.tokens_per_s,
        result.decode.seconds / steps * 1e6,
        inside,
        sum(stage.calls for stage in result.stages if stage.phase == "decode") / steps,
        sum(link.messages for link in result.links) / steps,
        sum(link.nbytes for link in result.links) / steps,
        cpu,
    )


class Running:
    """A row's processes, open and waiting."""

    def __init__(self, row: Row, folder: Path, models: Path) -> None:
        """Start them; they are ready when ``wait`` returns."""
        command = [sys.executable, __file__, row.name, str(folder), str(models)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._processes = [subprocess.Popen(command, **pipes) for _ in range(row.replicas)]  # type: ignore[call-overload]  # noqa: S603

    def wait(self) -> None:
        """Until they are ready."""
        for process in self._processes:
            if process.stdout.readline().strip() != "ready":
                sys.exit("A row's process ended early; what it said stands above.")

    def run(self, new_tokens: int) -> Ran:
        """One decode; of replicas the sum of the rates."""
        for process in self._processes:
            process.stdin.write(f"{new_tokens}\n")
            process.stdin.flush()
        found = [Ran(**json.loads(process.stdout.readline())) for process in self._processes]
        return dataclasses.replace(found[0], tokens_per_s=sum(ran.tokens_per_s for ran in found))

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            process.stdin.close()
            process.wait()


def main() -> None:
    """Be the process of one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=[row.name for row in ROWS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", type=Path)
    options = parser.parse_args()
    row = next(row for row in ROWS if row.name == options.row)
    decoder: Decoder = (
        Genai(options.folder)
        if row.kind == "genai"
        else Executors(row, open_plan(options.folder), options.folder, options.models)
    )
    decoder.decode(WARM_UP_TOKENS)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(dataclasses.asdict(decoder.decode(int(line)))), flush=True)
    decoder.close()


if __name__ == "__main__":
    main()
