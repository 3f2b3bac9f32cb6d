"""disaggc import: a model of full size from a configuration."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from disaggc import report
from disaggc.commands.arguments import Commands, add_command, warn

IMPORT_MORE = """\
Builds the full-size graph without a weight byte, by mobius-onnx (pip install 'disaggc[import]'):

  disaggc import config.json -o llama.onnx                     to inspect and compile
  disaggc import CHECKPOINT --checkpoint CHECKPOINT -o CHECKPOINT/model.onnx
                                                               to run: weights stay in the safetensors
"""


def add_import(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "import", "build an ONNX model from a Hugging Face configuration", IMPORT_MORE
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.json|FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL.onnx")
    parser.add_argument("--dtype", choices=("bf16", "f16", "f32"), default="bf16", help="of the weights")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="folder of safetensors files that weights point into"
    )
    parser.add_argument(
        "--static-cache", type=int, metavar="TOKENS", help="caches of this fixed capacity, updated in place"
    )
    parser.add_argument(
        "--ops",
        choices=("standard", "onnxruntime"),
        default="standard",
        help="ONNX's own ops, or onnxruntime's fused ones, too: faster here, caches written in place",
    )
    parser.add_argument("--force", action="store_true", help="replace a model that exists")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_import)


def _import(options: argparse.Namespace, screen: report.Screen) -> int:
    from disaggc.frontends import ImportOptions, import_config  # as in inspect

    with screen.progress() as tell:
        settings = ImportOptions(
            options.dtype, options.checkpoint, options.static_cache, options.ops, options.force, tell
        )
        found = import_config(options.config, options.output, settings)
    if options.json:
        screen.show_json({**dataclasses.asdict(found), "path": str(found.path)})
        return 0
    warn(screen, found.warnings)
    where = f"{found.referenced:,} of them in {options.checkpoint}" if options.checkpoint else "all absent"
    size = report.amount(found.parameters, "parameters")
    screen.say(f"{found.nodes:,} ops, {size} in {found.weights:,} weights, {where}.")
    screen.say(f"Wrote {found.path}. Next: disaggc inspect {found.path}")
    return 0
