"""disaggc inspect: what is in a model, and what it costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from disaggc import report
from disaggc.commands.arguments import Commands, add_command, add_library, warn
from disaggc.errors import JobError
from disaggc.ir import Graph, print_graph
from disaggc.targets import load_library


def add_inspect(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "inspect", "show a model's layers, roles with their evidence, and costs")
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
    add_library(parser)
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
        warn(screen, graph.warnings)
    return 0
