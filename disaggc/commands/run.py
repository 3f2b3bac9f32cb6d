"""disaggc run and verify: the plan executed here."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING

from disaggc import report
from disaggc.commands.arguments import Commands, add_command
from disaggc.errors import JobError, PlanError
from disaggc.plans import (
    Plan,
    is_fleet,
    open_plan,
)

if TYPE_CHECKING:  # onnxruntime takes its time to load
    from disaggc.runtime import Execution


def _add_prompts(parser: argparse.ArgumentParser, new_tokens: int) -> None:
    parser.add_argument("plan", type=Path, metavar="DIR", help="plan folder")
    parser.add_argument(
        "--prompt-ids",
        action="append",
        default=[],
        metavar="1,2,3",
        help="token ids of a prompt; give it again for a batch, lengths may differ",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="a prompt of text, by the tokenizer.json in the model's folder",
    )
    parser.add_argument("--max-new-tokens", type=int, default=new_tokens, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="onnxruntime threads")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="the model's folder, if it moved")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_execution(parser)


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a plan is executed."""
    group = parser.add_argument_group("how to execute", "What is not given is as in the plan.")
    group.add_argument(
        "--on",
        choices=("local", "processes", "ray"),
        default="local",
        help="all executors in this process, one process each with shared memory, or one process each on "
        "the nodes of a Ray cluster",
    )
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the Ray cluster; default: the one that runs here, or else a new one on this machine",
    )
    group.add_argument(
        "--instances", action="append", default=[], metavar="POOL=N", help="executors of a pool; default 1"
    )
    group.add_argument("--micro-batch", type=int, metavar="N", help="requests in a micro-batch")
    group.add_argument("--micro-batches", type=int, metavar="N", help="in flight, for each executor")
    group.add_argument("--kv-tokens", type=int, metavar="N", help="tokens that all caches may hold")
    group.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help="what an executor's process may allocate, such as 2G; mapped weights do not count",
    )
    group.add_argument(
        "--deadline", type=float, default=60.0, metavar="S", help="seconds a stage may take; then it hangs"
    )


def execution_of(options: argparse.Namespace, traced: bool = False) -> Execution:
    """How a plan is to be executed, by those options.

    Raises:
        JobError: One of them makes no sense.
    """
    from disaggc import runtime  # as in _run

    instances = {}
    for text in options.instances:
        pool, _, count = text.rpartition("=")
        if not pool or not count.isdigit():
            raise JobError(f"--instances {text}: write the pool's name and a number, such as POOL=2.")
        instances[pool] = int(count)
    if options.deadline <= 0:
        raise JobError(f"--deadline {options.deadline:g} leaves no time. Give seconds above 0.")
    if options.address is not None and options.on != "ray":
        raise JobError(f"--address {options.address} names a Ray cluster. Add --on ray.")
    return runtime.Execution(
        on=options.on,
        address=options.address,
        memory_bytes=runtime.bytes_of(options.memory_limit) if options.memory_limit else None,
        instances=instances,
        micro_batch=options.micro_batch,
        micro_batches=options.micro_batches,
        kv_tokens=options.kv_tokens,
        deadline_s=options.deadline,
        traced=traced,
    )


def add_run(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "run", "generate tokens with a plan, here or on a Ray cluster")
    _add_prompts(parser, 32)
    parser.add_argument(
        "--stop-id", type=int, action="append", default=[], metavar="N", help="a token id that ends an answer"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="write a timeline of the run for ui.perfetto.dev"
    )
    parser.set_defaults(run=_run)


def add_verify(commands: Commands) -> None:
    """Add the command to the parser."""
    more = (
        "Without --prompt-ids three prompts of unequal length are drawn, always the same.\n"
        "Exit code 1: they differ."
    )
    parser = add_command(commands, "verify", "run a plan and the uncut model side by side, and compare", more)
    _add_prompts(parser, 16)
    parser.set_defaults(run=_verify)


def _run(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc import runtime  # onnxruntime takes its time to load; other commands do without

    plan = _runnable(options.plan)
    if not options.prompt_ids and not options.prompt:
        raise JobError("There is no prompt. Add --prompt 'TEXT', or --prompt-ids 1,2,3 with token ids.")
    folder = _model_folder(options)
    prompts = _prompts(options, folder)
    result = runtime.run(
        plan,
        options.plan,
        folder,
        prompts,
        options.max_new_tokens,
        threads=options.threads,
        execution=execution_of(options, traced=options.trace is not None),
        stop_ids=options.stop_id,
    )
    if options.trace is not None:
        runtime.write_timeline(plan, result, options.trace)
    tokenizer = runtime.Text(folder) if options.prompt else None
    texts = [tokenizer.text(tokens) for tokens in result.tokens] if tokenizer is not None else []
    if options.json:
        screen.show_json(report.run_data(result, texts))
    else:
        screen.show(*report.run_table(result, texts))
    for error in result.failures.values():
        screen.fail(str(error))
    return 1 if result.failures else 0


def _prompts(options: argparse.Namespace, folder: Path) -> list[list[int]]:
    """Token ids of every prompt: those given as ids, then those given as text."""
    from disaggc import runtime  # as in _run

    given = [_token_ids(text) for text in options.prompt_ids]
    if options.prompt:
        tokenizer = runtime.Text(folder)
        given += [tokenizer.ids(text) for text in options.prompt]
    return given


def _verify(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc import runtime  # as in _run

    plan = _runnable(options.plan)
    folder = _model_folder(options)
    prompts = _prompts(options, folder) or _drawn_prompts()
    found = runtime.verify(
        plan,
        options.plan,
        folder,
        prompts,
        options.max_new_tokens,
        threads=options.threads,
        execution=execution_of(options),
    )
    if options.json:
        screen.show_json(report.verification_data(found))
    else:
        screen.show(*report.verification_table(found))
    return 0 if found.tokens_equal else 1


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise JobError(
            f"--prompt-ids '{text}' must be token ids with commas between, such as 1,2,3."
        ) from error


def _drawn_prompts() -> list[list[int]]:
    """Three prompts of unequal length with small token ids, which every vocabulary has."""
    draw = random.Random(0)  # noqa: S311 - a fixed example, no secret
    return [[draw.randrange(1, 200) for _ in range(length)] for length in (5, 9, 5)]


def _runnable(folder: Path) -> Plan:
    """The plan of a folder that can be run by itself."""
    if is_fleet(folder):
        parts = sorted(path.name for path in (folder / "deployments").glob("*") if path.is_dir())
        raise PlanError(
            f"'{folder}' is the plan of a whole fleet. Run one of its deployments: "
            f"{', '.join(str(folder / 'deployments' / part) for part in parts)}."
        )
    return open_plan(folder)


def _model_folder(options: argparse.Namespace) -> Path:
    """Where the model lies: as asked, else where it was compiled from."""
    if options.model is not None:
        chosen: Path = options.model
        return chosen
    try:
        return Path((options.plan / "model.path").read_text(encoding="utf-8").strip())
    except OSError as error:
        raise PlanError(f"'{options.plan}' does not say where its model is. Add --model FOLDER.") from error
