"""disaggc completion: a script for the shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from disaggc import report
from disaggc.commands.arguments import Commands, add_command, add_library
from disaggc.targets import load_library

COMPLETION_MORE = """\
  bash:  source <(disaggc completion bash)        in ~/.bashrc
  zsh:   source <(disaggc completion zsh)         in ~/.zshrc, after compinit
  fish:  disaggc completion fish | source         in ~/.config/fish/config.fish
"""


def add_completion(commands: Commands, whole: argparse.ArgumentParser) -> None:
    """Add the command; the script is made of the whole parser."""
    parser = add_command(
        commands, "completion", "print a script that completes this command", COMPLETION_MORE
    )
    parser.add_argument("shell", choices=report.SHELLS)
    add_library(parser)
    parser.set_defaults(run=_completion, whole=whole)


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
    sys.stdout.write(report.script(options.shell, _commands(options.whole, words)))
    return 0


def _commands(whole: argparse.ArgumentParser, words: Mapping[str, tuple[str, ...]]) -> list[report.Command]:
    """Every command as its parser declares it; ``words`` are what a metavar stands for."""
    tree = next(a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
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
