"""disaggc emit: a plan in the form of a serving stack."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from disaggc import report
from disaggc.backends.catalogue import BACKENDS
from disaggc.commands.arguments import Commands, add_command, add_library

EMIT_MORE = """\
  disaggc emit out --backend dynamo --checkpoint Qwen/Qwen3-235B-A22B -o deployment
  disaggc emit out --backend onnx -o annotated

backends (docs/emitters.md says what each can express):
"""


def add_emit(commands: Commands) -> None:
    """Add the command to the parser."""
    listed = "".join(f"  {name:<12} {title}\n" for name, (_, title) in BACKENDS.items())
    parser = add_command(
        commands, "emit", "write a plan in the form that a serving stack reads", EMIT_MORE + listed
    )
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
    add_library(parser)
    parser.set_defaults(run=_emit)


def _emit(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc.backends.emitters import Settings, emit  # as in inspect

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
