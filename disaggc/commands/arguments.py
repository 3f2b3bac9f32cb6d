"""What commands share: how one is added, where declarations are looked for, how warnings are told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from disaggc import report

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where commands are added; argparse gives its class no public name."""


def add_command(commands: Commands, name: str, text: str, more: str = "") -> argparse.ArgumentParser:
    """A command with its one line of help, which is its description, too."""
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_library(parser: argparse.ArgumentParser) -> None:
    """Add --library."""
    parser.add_argument(
        "--library",
        type=Path,
        metavar="DIR",
        help="your own declarations (passes/, targets/) in front of the shipped ones",
    )


def warn(screen: report.Screen, warnings: Sequence[str]) -> None:
    """Print warnings."""
    for text in warnings:
        screen.warn(text)
