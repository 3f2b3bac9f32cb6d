"""The command: arguments in, exit code out."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import random
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from disaggc import __version__, report
from disaggc.backends.catalogue import BACKENDS
from disaggc.errors import DisaggcError, JobError, PlanError, nearest
from disaggc.ir import Graph, print_graph
from disaggc.plans import (
    FleetPlan,
    Job,
    ModelSpec,
    Plan,
    SearchSpec,
    TierSpec,
    dump_plan,
    is_fleet,
    load_job,
    open_fleet,
    open_plan,
)
from disaggc.targets import load_library

if TYPE_CHECKING:  # onnxruntime takes its time to load
    from disaggc.runtime import Execution

FIRST_STEPS = """\
first steps:
  disaggc inspect MODEL.onnx                          what is in a model, and what it costs
  disaggc compile examples/tiny_moe.toml -o out       where each part of it should run, and why
  disaggc verify out                                  run the plan here, against the uncut model

then: disaggc explain out, disaggc report out; disaggc COMMAND --help says more of each
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 bad input, 2 wrong command, 3 no feasible plan, 130 interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        _teach(parser)
        return 0
    gc.set_threshold(100_000, 20, 20)  # a large graph is millions of objects that live to the end
    screen = report.Screen()
    try:
        code: int = options.run(options, screen)
        sys.stdout.flush()
    except DisaggcError as error:
        screen.fail(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        screen.fail("Interrupted; nothing was written.")
        return 130
    except BrokenPipeError:
        _close_stdout()
        return 0
    return code


def _teach(parser: argparse.ArgumentParser) -> None:
    """What to do first, and what else there is: the answer to the command alone."""
    tree = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    print(textwrap.fill(parser.description or "", 100), FIRST_STEPS, sep="\n\n")
    print("commands:")
    for choice in tree._choices_actions:
        print(f"  {choice.dest:<12}{choice.help}")


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint about a word that it does not know names the nearest one."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and how to go on."""
        found = re.match(r"argument .*: invalid choice: '(.*?)' \(choose from (.*)\)$", message)
        if found is not None:
            known = re.findall(r"[\w.-]+", found[2])
            message = f"There is no '{found[1]}'.{nearest(found[1], known)}"
        super().error(message)


def _close_stdout() -> None:
    """Nobody reads any more ('disaggc explain | head'): what is still buffered goes nowhere, quietly."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="disaggc",
        description="Compiles an ONNX model and a fleet into a placement plan for LLM inference, proves the "
        "choice, and runs the plan here, token for token equal to the uncut model.",
        epilog=FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"disaggc {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_inspect(commands)
    _add_compile(commands)
    _add_run(commands)
    _add_verify(commands)
    _add_explain(commands)
    _add_targets(commands)
    _add_import(commands)
    _add_compare(commands)
    _add_emit(commands)
    _add_report(commands)
    _add_diff(commands)
    _add_completion(commands)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, more: str = ""
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_library(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--library",
        type=Path,
        metavar="DIR",
        help="your own declarations (passes/, targets/) in front of the shipped ones",
    )


# inspect ---------------------------------------------------------------------------------------


def _add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "inspect", "show a model's layers, roles with their evidence, and costs")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--verbose", action="store_true", help="every op, not one of each role")
    parser.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="SYSTEM",
        help="the least that a token costs there",
    )
    parser.add_argument("--context", type=int, default=8192, metavar="N", help="tokens before it (with --on)")
    parser.add_argument("--kv", default="as stored", metavar="FORMAT", help="the cache's format (with --on)")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument(
        "--print-after", metavar="PASS", default="", help="print the graph as text after this pass and stop"
    )
    _add_library(parser)
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc.compiler import Options, analyse  # onnx and the solver take a second to load

    texts: dict[str, str] = {}

    def after(name: str, graph: Graph) -> None:
        if name == options.print_after:
            texts[name] = print_graph(graph)

    with screen.progress() as tell:
        graph = analyse(options.model, Options(library=options.library, after_pass=after, tell=tell))
    if options.print_after:
        if options.print_after not in texts:
            raise JobError(f"No pass named '{options.print_after}' ran. See passes/pipelines/default.toml.")
        sys.stdout.write(texts[options.print_after])
        return 0
    library = load_library(options.library)
    systems = [library.system(name) for name in options.on]
    if options.context < 1:
        raise JobError(f"--context {options.context} must be 1 or more tokens.")
    if options.json:
        floors = report.floors_data(graph, systems, options.context, options.kv)
        screen.show_json({**report.inspection_data(graph), **floors})
    else:
        screen.show(*report.inspection(graph, options.verbose))
        screen.show(*report.floors(graph, systems, options.context, options.kv))
        _warn(screen, graph.warnings)
    return 0


def _warn(screen: report.Screen, warnings: Sequence[str]) -> None:
    for text in warnings:
        screen.warn(text)


# compile ---------------------------------------------------------------------------------------

COMPILE_MORE = """\
A job file says everything (see examples/tiny_moe.toml). Without one, name a model and a fleet:

  disaggc compile JOB.toml -o out
  disaggc compile MODEL.onnx --system vr-nvl72 --system groq3-lpx=2 --tier gtc2026/premium -o out

One tier without a demand takes all of the fleet that helps it, as one replica. Several tiers, a demand,
a [budget] or maximise = "revenue" make replicas that share the fleet (see examples/five_tiers.toml):
the folder then holds a plan for each kind of replica, and --keep stays near a plan that runs already.

Exit code 3: what must be served cannot be; what binds and what would relax it is printed.
"""


def _add_compile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "compile", "decide what runs where, and write the plan folder", COMPILE_MORE)
    parser.add_argument("job", type=Path, metavar="JOB.toml|MODEL.onnx")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="plan folder to write"
    )
    parser.add_argument("--force", action="store_true", help="replace a plan folder that exists")
    parser.add_argument("--json", action="store_true", help="print plan.json instead of a summary")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="a fleet's plan that runs now: change as little of it as 2 %% of the objective allow",
    )
    model = parser.add_argument_group("for MODEL.onnx instead of a job file")
    model.add_argument(
        "--system", action="append", default=[], metavar="NAME[=N]", help="a system of the fleet"
    )
    model.add_argument(
        "--tier",
        action="append",
        default=[],
        metavar="TIER",
        help="a declared tier, such as gtc2026/premium; several share the fleet",
    )
    model.add_argument("--weights", default="as stored", metavar="FORMAT", help="fp8, nvfp4, bf16, ...")
    model.add_argument("--kv", default="as stored", metavar="FORMAT", help="the caches' format")
    model.add_argument("--activations", default="as stored", metavar="FORMAT")
    model.add_argument("--input-tokens", type=int, metavar="N", help="length of a prompt")
    model.add_argument("--output-tokens", type=int, default=1000, metavar="N", help="length of an answer")
    model.add_argument("--context", type=int, metavar="N", help="tokens to reserve memory for, per request")
    model.add_argument("--prefix-hit", type=float, default=0.0, metavar="SHARE", help="of a prompt, cached")
    model.add_argument("--batch", type=int, action="append", default=[], metavar="N", help="only this batch")
    _add_library(parser)
    parser.set_defaults(run=_compile)


def _compile(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc.compiler import Options, compile_fleet, compile_job  # as in _inspect

    job, root = _job(options)
    with screen.progress() as tell:
        settings = Options(library=options.library, force=options.force, tell=tell)
        plan: Plan | FleetPlan
        if job.shares_fleet:
            present = None if options.keep is None else open_fleet(options.keep)
            plan = compile_fleet(job, root, options.output, settings, present)
        elif options.keep is not None:
            raise JobError("--keep is for tiers that share a fleet; this job's one tier has no demand.")
        else:
            plan = compile_job(job, root, options.output, settings)
    if options.json:
        sys.stdout.write(dump_plan(plan).decode())
        return 0
    _warn(screen, plan.warnings)
    folder, first = options.output, options.output
    if isinstance(plan, FleetPlan):
        screen.show(*report.fleet_summary(plan))
        first = folder / next(r.plan for r in plan.replicas if r.plan)
    else:
        screen.show(*report.summary(plan))
    screen.say(f"Wrote {folder}. Next: disaggc explain {folder}; disaggc verify {first}")
    return 0


def _job(options: argparse.Namespace) -> tuple[Job, Path]:
    """The job, and the folder that its paths are relative to."""
    if options.job.suffix == ".toml":
        if options.system or options.tier:
            raise JobError("A job file names its own fleet and tier. Leave --system and --tier out.")
        return load_job(options.job), options.job.parent
    if not options.system or not options.tier:
        raise JobError(
            "A model needs a fleet and a tier: add --system NAME[=N] and --tier NAME, or give a JOB.toml."
        )
    tiers = tuple(
        TierSpec(
            like=name,
            context_tokens=options.context,
            input_tokens=options.input_tokens,
            output_tokens=options.output_tokens,
            prefix_hit=options.prefix_hit,
        )
        for name in options.tier
    )
    model = ModelSpec(str(options.job.name), options.weights, options.kv, options.activations)
    job = Job(model, _fleet(options.system), tiers, search=SearchSpec(batch=tuple(options.batch)))
    return job, options.job.parent


def _fleet(systems: Sequence[str]) -> dict[str, int]:
    fleet: dict[str, int] = {}
    for text in systems:
        name, _, count = text.partition("=")
        if count and not count.isdigit():
            raise JobError(f"--system {text}: '{count}' is no number of systems. Write {name}=2.")
        fleet[name] = fleet.get(name, 0) + int(count or 1)
    return fleet


# run and verify --------------------------------------------------------------------------------


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
    _add_execution(parser)


def _add_execution(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to execute", "What is not given is as in the plan.")
    group.add_argument(
        "--on",
        choices=("local", "processes"),
        default="local",
        help="all executors in this process, or one process each with shared memory",
    )
    group.add_argument(
        "--instances", action="append", default=[], metavar="POOL=N", help="executors of a pool; default 1"
    )
    group.add_argument("--micro-batch", type=int, metavar="N", help="requests in a micro-batch")
    group.add_argument("--micro-batches", type=int, metavar="N", help="in flight, for each executor")
    group.add_argument("--kv-tokens", type=int, metavar="N", help="tokens that all caches may hold")
    group.add_argument(
        "--deadline", type=float, default=60.0, metavar="S", help="seconds a stage may take; then it hangs"
    )


def _execution(options: argparse.Namespace, traced: bool = False) -> Execution:
    from disaggc import runtime  # as in _run

    instances = {}
    for text in options.instances:
        pool, _, count = text.rpartition("=")
        if not pool or not count.isdigit():
            raise JobError(f"--instances {text}: write the pool's name and a number, such as POOL=2.")
        instances[pool] = int(count)
    if options.deadline <= 0:
        raise JobError(f"--deadline {options.deadline:g} leaves no time. Give seconds above 0.")
    return runtime.Execution(
        on=options.on,
        instances=instances,
        micro_batch=options.micro_batch,
        micro_batches=options.micro_batches,
        kv_tokens=options.kv_tokens,
        deadline_s=options.deadline,
        traced=traced,
    )


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "run", "generate tokens with a plan, on this machine")
    _add_prompts(parser, 32)
    parser.add_argument(
        "--stop-id", type=int, action="append", default=[], metavar="N", help="a token id that ends an answer"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="write a timeline of the run for ui.perfetto.dev"
    )
    parser.set_defaults(run=_run)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    more = (
        "Without --prompt-ids three prompts of unequal length are drawn, always the same.\n"
        "Exit code 1: they differ."
    )
    parser = _add(commands, "verify", "run a plan and the uncut model side by side, and compare", more)
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
        execution=_execution(options, traced=options.trace is not None),
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
        execution=_execution(options),
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


# explain and targets ---------------------------------------------------------------------------


def _add_explain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "explain", "say why a plan is as it is: memory, stages, alternatives, rejections")
    parser.add_argument("plan", type=Path, metavar="DIR", help="plan folder")
    parser.add_argument("--why", metavar="PART", help="why it is where it is: attention, ffn, or a role")
    parser.add_argument("--why-not", metavar="MODE", help="afd, pd, colocated, or (part of) a mode's name")
    parser.add_argument("--what-binds", action="store_true", help="what limits it, and what room there is")
    parser.add_argument("--one-more", metavar="SYSTEM", help="what one more of it would bring (with --job)")
    parser.add_argument("--job", type=Path, metavar="JOB.toml", help="the job, for --one-more")
    parser.add_argument("--json", action="store_true", help="print plan.json, or the answers")
    _add_library(parser)
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace, screen: report.Screen) -> int:
    if is_fleet(options.plan):
        return _explain_fleet(options, screen)
    plan: Plan = open_plan(options.plan)
    if options.one_more:
        return _one_more(options, screen)
    answers = _answers(options, plan)
    if answers and options.json:
        screen.show_json({"answers": answers})
        return 0
    if answers:
        screen.show(*(report.wrapped(sentence) for found in answers.values() for sentence in found))
        return 0
    if options.json:
        sys.stdout.write(dump_plan(plan).decode())
        return 0
    screen.show(*report.explain(plan))
    _warn(screen, plan.warnings)
    return 0


def _explain_fleet(options: argparse.Namespace, screen: report.Screen) -> int:
    """A fleet tells all of itself; questions are asked of its deployments."""
    plan = open_fleet(options.plan)
    if options.why or options.why_not or options.what_binds or options.one_more:
        folders = ", ".join(f"{options.plan}/{r.plan}" for r in plan.replicas if r.plan)
        raise PlanError(f"'{options.plan}' is the plan of a fleet. Ask one of its deployments: {folders}.")
    if options.json:
        sys.stdout.write(dump_plan(plan).decode())
        return 0
    screen.show(*report.fleet_explain(plan))
    _warn(screen, plan.warnings)
    return 0


def _answers(options: argparse.Namespace, plan: Plan) -> dict[str, list[str]]:
    """Question to sentences, for each that was asked."""
    found: dict[str, list[str]] = {}
    if options.why:
        found[f"why {options.why}"] = report.why(plan, options.why)
    if options.why_not:
        found[f"why not {options.why_not}"] = report.why_not(plan, options.why_not)
    if options.what_binds:
        found["what binds"] = report.what_binds(plan)
    return found


def _one_more(options: argparse.Namespace, screen: report.Screen) -> int:
    """Only the compiler can tell: run it where the job is given, else say how."""
    system = options.one_more
    load_library(options.library).system(system)  # refuses a name that nobody declared
    if options.job is not None:
        count = load_job(options.job).fleet.get(system, 0)
        return _compared(options, (system, [float(count), float(count + 1)]), None, screen)
    count = report.fleet_counts(options.plan).get(system, 0)
    command = f"disaggc compare JOB.toml --with {system}={count},{count + 1}"
    if options.json:
        screen.show_json({"command": command})
    else:
        screen.say(f"That takes the compiler: {command}, or add --job JOB.toml here.")
    return 0


def _add_targets(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "targets", "list the declared machines, or show one with its sources")
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="for programs")
    _add_library(parser)
    parser.set_defaults(run=_targets)


def _targets(options: argparse.Namespace, screen: report.Screen) -> int:
    library = load_library(options.library)
    system = library.system(options.name) if options.name is not None else None
    if options.json:
        screen.show_json(report.systems_data(library) if system is None else report.system_data(system))
    else:
        screen.show(report.systems_table(library) if system is None else report.system_table(system))
    return 0


# import ----------------------------------------------------------------------------------------

IMPORT_MORE = """\
Builds the full-size graph without a weight byte, by mobius-onnx (pip install 'disaggc[import]'):

  disaggc import config.json -o llama.onnx                     to inspect and compile
  disaggc import CHECKPOINT --checkpoint CHECKPOINT -o CHECKPOINT/model.onnx
                                                               to run: weights stay in the safetensors
"""


def _add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "import", "build an ONNX model from a Hugging Face configuration", IMPORT_MORE)
    parser.add_argument("config", type=Path, metavar="CONFIG.json|FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL.onnx")
    parser.add_argument("--dtype", choices=("bf16", "f16", "f32"), default="bf16", help="of the weights")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="folder of safetensors files that weights point into"
    )
    parser.add_argument(
        "--static-cache", type=int, metavar="TOKENS", help="caches of this fixed capacity, updated in place"
    )
    parser.add_argument("--force", action="store_true", help="replace a model that exists")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_import)


def _import(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc.frontends import ImportOptions, import_config  # as in _inspect

    with screen.progress() as tell:
        settings = ImportOptions(options.dtype, options.checkpoint, options.static_cache, options.force, tell)
        found = import_config(options.config, options.output, settings)
    if options.json:
        screen.show_json({**dataclasses.asdict(found), "path": str(found.path)})
        return 0
    _warn(screen, found.warnings)
    where = f"{found.referenced:,} of them in {options.checkpoint}" if options.checkpoint else "all absent"
    size = report.amount(found.parameters, "parameters")
    screen.say(f"{found.nodes:,} ops, {size} in {found.weights:,} weights, {where}.")
    screen.say(f"Wrote {found.path}. Next: disaggc inspect {found.path}")
    return 0


# compare ---------------------------------------------------------------------------------------

COMPARE_MORE = """\
What would one more rack bring? Where does a longer prompt stop to fit?

  disaggc compare JOB.toml --with groq3-lpx=0,1,2,4
  disaggc compare JOB.toml --with lpx=0,1,2,4,8
  disaggc compare JOB.toml --with premium.price_usd_per_mtok=15,30,45
"""


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "compare", "vary one input of a job, and tabulate the best plans", COMPARE_MORE)
    parser.add_argument("job", type=Path, metavar="JOB.toml")
    parser.add_argument(
        "--with",
        dest="sweep",
        required=True,
        metavar="NAME=A,B,...",
        help="a system of the fleet, or one word of its name (0 leaves it out), a number of all tiers, or "
        "TIER.NUMBER; and its values",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.html", help="draw it, too: one page that opens offline"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    _add_library(parser)
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace, screen: report.Screen) -> int:
    return _compared(options, _sweep(options.sweep), options.output, screen)


def _compared(
    options: argparse.Namespace,
    sweep: tuple[str, list[float]],
    output: Path | None,
    screen: report.Screen,
) -> int:
    """The best plan of a job for each value of one input, drawn into ``output`` if there is one."""
    from disaggc.compiler import Options, compare  # as in _inspect

    name, values = sweep
    with screen.progress() as tell:
        settings = Options(library=options.library, tell=tell)
        found = compare(load_job(options.job), options.job.parent, name, values, settings)
    data = report.comparison_data(name, found)
    if output is not None:
        text = report.sweep_page(name, data["rows"], f"disaggc {__version__}")
        report.write_page(text, output)
    if options.json:
        screen.show_json(data)
    else:
        screen.show(*report.comparison(name, found))
        if output is not None:
            screen.say(f"Wrote {output}.")
    return 0 if any(row.best is not None for row in found) else 3


def _sweep(text: str) -> tuple[str, list[float]]:
    name, _, values = text.partition("=")
    try:
        return name, [float(value) for value in values.split(",")]
    except ValueError as error:
        raise JobError(f"--with {text}: write a name and numbers, such as groq3-lpx=0,1,2.") from error


# emit ------------------------------------------------------------------------------------------

EMIT_MORE = """\
  disaggc emit out --backend dynamo --checkpoint Qwen/Qwen3-235B-A22B -o deployment
  disaggc emit out --backend onnx -o annotated

backends (docs/emitters.md says what each can express):
"""


def _add_emit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listed = "".join(f"  {name:<12} {title}\n" for name, (_, title) in BACKENDS.items())
    parser = _add(commands, "emit", "write a plan in the form that a serving stack reads", EMIT_MORE + listed)
    parser.add_argument("plan", type=Path, metavar="DIR", help="plan folder")
    parser.add_argument("--backend", required=True, metavar="NAME", help="one of those below")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace a folder that was emitted before")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--deployment",
        action="append",
        default=[],
        metavar="NAME",
        help="of a fleet this one; repeatable",
    )
    more = parser.add_argument_group("what a plan does not know; each backend takes some")
    more.add_argument("--checkpoint", metavar="NAME|PATH", help="the model that the stack loads")
    more.add_argument("--name", help="of the deployment; default: the model's")
    more.add_argument("--namespace", help="of Kubernetes")
    more.add_argument("--engine", metavar="vllm|sglang", help="what Dynamo drives; default: vllm")
    more.add_argument("--image", help="container image of the engine")
    more.add_argument("--build-id", metavar="ID", help="compiled build that LPX components run")
    more.add_argument("--lpu-image", metavar="IMAGE", help="of the LPX agents")
    more.add_argument("--conductor-image", metavar="IMAGE", help="of the LPX conductor, where it has GPUs")
    more.add_argument("--node-devices", type=int, metavar="N", help="devices of one node; default: declared")
    more.add_argument("--connector", metavar="NAME", help="between attention and FFN ranks")
    more.add_argument("--model", type=Path, metavar="FOLDER", help="the ONNX model's folder, if it moved")
    _add_library(parser)
    parser.set_defaults(run=_emit)


def _emit(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc.backends.emitters import Settings, emit  # as in _inspect

    names = [field.name for field in dataclasses.fields(Settings)]
    settings = Settings(**{name: getattr(options, name) for name in names})
    written = emit(
        options.plan,
        options.backend,
        options.output,
        settings,
        only=options.deployment,
        force=options.force,
        library=options.library,
    )
    if options.json:
        screen.show_json({**dataclasses.asdict(written), "output": str(written.output)})
        return 0
    for note in written.notes:
        screen.warn(note)
    screen.say(f"Wrote {', '.join(written.files)} in {written.output}. Next: {written.start}")
    return 0


# report ----------------------------------------------------------------------------------------


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "report", "draw a plan, or a fleet's: one HTML file that opens offline")
    parser.add_argument("plan", type=Path, metavar="DIR", help="plan folder")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.html", help="default: report.html beside plan.json"
    )
    parser.add_argument("--json", action="store_true", help="say for programs what was written")
    _add_library(parser)
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace, screen: report.Screen) -> int:
    known = load_library(options.library).sources
    if is_fleet(options.plan):
        text = report.fleet_page(open_fleet(options.plan), options.plan, known)
    else:
        text = report.plan_page(open_plan(options.plan), options.plan, known)
    output: Path = options.output or options.plan / "report.html"
    report.write_page(text, output)
    if options.json:
        screen.show_json({"path": str(output), "bytes": len(text.encode())})
    else:
        screen.say(f"Wrote {output} ({report.amount(len(text.encode()), 'B')}).")
    return 0


# diff ------------------------------------------------------------------------------------------


def _add_diff(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "diff", "say what changed between two plans, and what it costs to move")
    parser.add_argument("before", type=Path, metavar="DIR1", help="the plan that runs")
    parser.add_argument("after", type=Path, metavar="DIR2", help="the plan that shall run")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_diff)


def _diff(options: argparse.Namespace, screen: report.Screen) -> int:
    before, after = open_plan(options.before), open_plan(options.after)
    rates = {**report.link_rates(options.before), **report.link_rates(options.after)}
    found = report.difference(before, after, rates)
    if options.json:
        screen.show_json(report.difference_data(found))
    else:
        screen.show(*report.difference_tables(found))
    return 0


# completion ------------------------------------------------------------------------------------

COMPLETION_MORE = """\
  bash:  source <(disaggc completion bash)        in ~/.bashrc
  zsh:   source <(disaggc completion zsh)         in ~/.zshrc, after compinit
  fish:  disaggc completion fish | source         in ~/.config/fish/config.fish
"""


def _add_completion(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "completion", "print a script that completes this command", COMPLETION_MORE)
    parser.add_argument("shell", choices=report.SHELLS)
    _add_library(parser)
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace, _: report.Screen) -> int:
    from disaggc.cost import FORMAT_BITS  # numpy takes its time to load

    library = load_library(options.library)
    words = {
        "SYSTEM": tuple(library.systems),
        "NAME[=N]": tuple(library.systems),
        "NAME": tuple(library.systems),
        "TIER": tuple(library.tiers),
        "FORMAT": tuple(FORMAT_BITS),
    }
    sys.stdout.write(report.script(options.shell, _commands(words)))
    return 0


def _commands(words: Mapping[str, tuple[str, ...]]) -> list[report.Command]:
    """Every command as its parser declares it; ``words`` are what a metavar stands for."""
    tree = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    texts = {choice.dest: choice.help or "" for choice in tree._choices_actions}
    found = []
    for name, parser in tree.choices.items():
        options, arguments = [], []
        for action in parser._actions:
            value = None if action.nargs == 0 else _value(action, words)
            if action.option_strings:
                options.append(report.Option(tuple(action.option_strings), action.help or "", value))
            else:
                arguments.append(_value(action, words))
        found.append(report.Command(name, texts[name], tuple(options), tuple(arguments)))
    return found


def _value(action: argparse.Action, words: Mapping[str, tuple[str, ...]]) -> report.Value:
    if action.choices is not None:
        return report.Value(tuple(map(str, action.choices)))
    told = str(action.metavar)
    if action.type is Path:
        return report.Value(file=told != "DIR", folder=told == "DIR")
    return report.Value(words.get(told, ()))


if __name__ == "__main__":
    sys.exit(main())
