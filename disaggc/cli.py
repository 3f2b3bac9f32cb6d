"""The command: arguments in, exit code out."""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from disaggc import __version__, report
from disaggc.commands import (
    calibrate,
    compare,
    compiling,
    completion,
    diff,
    emit,
    explain,
    importing,
    inspect,
    reporting,
    run,
    serve,
    shard,
)
from disaggc.errors import DisaggcError, nearest

COMMANDS = (
    inspect.add_inspect,
    compiling.add_compile,
    run.add_run,
    run.add_verify,
    serve.add_serve,
    shard.add_shard,
    explain.add_explain,
    explain.add_targets,
    calibrate.add_calibrate,
    importing.add_import,
    compare.add_compare,
    emit.add_emit,
    reporting.add_report,
    diff.add_diff,
)
"""What adds each command, in the order that help lists them."""

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
    for add in COMMANDS:
        add(commands)
    completion.add_completion(commands, parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
