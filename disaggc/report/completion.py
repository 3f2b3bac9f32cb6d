"""Completion scripts for shells, made from what the command line knows of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Value:
    """What an argument takes: one of ``words``, a file, a folder, or anything (all empty)."""

    words: tuple[str, ...] = ()
    file: bool = False
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """An option by its spellings; ``value`` is None for a flag."""

    flags: tuple[str, ...]
    text: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its options and what its arguments take, in order; the last one may repeat."""

    name: str
    text: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...] = ()


def script(shell: str, commands: Sequence[Command]) -> str:
    """The completion script of a shell ('bash', 'zsh' or 'fish')."""
    writers: dict[str, Callable[[Sequence[Command]], Iterator[str]]] = {
        "bash": _bash,
        "zsh": _zsh,
        "fish": _fish,
    }
    return "\n".join(writers[shell](commands)) + "\n"


def quoted(text: str) -> str:
    """A word for any of these shells, whatever is in it."""
    return "'" + text.replace("'", "'\\''") + "'"


# bash ------------------------------------------------------------------------------------------


def _bash(commands: Sequence[Command]) -> Iterator[str]:
    names = " ".join(command.name for command in commands)
    yield "# Completion of disaggc for bash: source <(disaggc completion bash)"
    yield "_disaggc() {"
    yield '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield "  COMPREPLY=()"
    yield f'  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W \'{names}\' -- "$word")); return; fi'
    yield '  case "${COMP_WORDS[1]}" in'
    for command in commands:
        yield f"    {command.name})"
        yield from (f"      {line}" for line in _bash_command(command))
        yield "      ;;"
    yield "  esac"
    yield "}"
    yield "complete -o filenames -F _disaggc disaggc"


def _bash_command(command: Command) -> Iterator[str]:
    yield 'case "$before" in'
    for option in command.options:
        if option.value is not None:
            yield f"  {'|'.join(option.flags)}) COMPREPLY=({_bash_words(option.value)}); return ;;"
    yield "esac"
    flags = " ".join(flag for option in command.options for flag in option.flags)
    yield f'if [[ "$word" == -* ]]; then COMPREPLY=($(compgen -W \'{flags}\' -- "$word")); return; fi'
    for value in command.arguments[-1:]:
        yield f"COMPREPLY=({_bash_words(value)})"


def _bash_words(value: Value) -> str:
    if value.words:
        return f'$(compgen -W {quoted(" ".join(value.words))} -- "$word")'
    if value.folder:
        return '$(compgen -d -- "$word")'
    return '$(compgen -f -- "$word")' if value.file else ""


# zsh -------------------------------------------------------------------------------------------


def _zsh(commands: Sequence[Command]) -> Iterator[str]:
    yield "#compdef disaggc"
    yield "# Completion of disaggc for zsh: source <(disaggc completion zsh)"
    yield "_disaggc() {"
    yield "  if (( CURRENT == 2 )); then"
    yield "    local -a names"
    yield f"    names=({' '.join(quoted(f'{c.name}:{c.text}') for c in commands)})"
    yield "    _describe command names"
    yield "    return"
    yield "  fi"
    yield "  local name=${words[2]}"
    yield "  shift words; (( CURRENT-- ))"
    yield "  case $name in"
    for command in commands:
        told = " ".join([*_zsh_options(command), *_zsh_arguments(command)])
        yield f"    {command.name}) _arguments -S {told} ;;"
    yield "  esac"
    yield "}"
    yield "if (( $+functions[compdef] )); then compdef _disaggc disaggc; fi"


def _zsh_options(command: Command) -> Iterator[str]:
    for option in command.options:
        for flag in option.flags:
            taken = "" if option.value is None else f":value:{_zsh_words(option.value)}"
            yield quoted(f"*{flag}[{_plain(option.text)}]{taken}")


def _zsh_arguments(command: Command) -> Iterator[str]:
    for value in command.arguments[-1:]:
        yield quoted(f"*:argument:{_zsh_words(value)}")


def _zsh_words(value: Value) -> str:
    if value.words:
        return f"({' '.join(value.words)})"
    return "_files -/" if value.folder else "_files" if value.file else " "


def _plain(text: str) -> str:
    """A description without what zsh would take for its own."""
    return re.sub(r"[\[\]:\\]", " ", text)


# fish ------------------------------------------------------------------------------------------


def _fish(commands: Sequence[Command]) -> Iterator[str]:
    yield "# Completion of disaggc for fish: disaggc completion fish | source"
    yield "complete -c disaggc -f"
    for command in commands:
        told = f"-a {command.name} -d {quoted(command.text)}"
        yield f"complete -c disaggc -n __fish_use_subcommand {told}"
        here = f"complete -c disaggc -n '__fish_seen_subcommand_from {command.name}'"
        for value in command.arguments[-1:]:
            if _fish_words(value):
                yield f"{here} {_fish_words(value)}"
        for option in command.options:
            taken = "" if option.value is None else f" -r {_fish_words(option.value)}".rstrip()
            yield f"{here} {_fish_flags(option)} -d {quoted(option.text)}{taken}"


def _fish_flags(option: Option) -> str:
    spelled = [f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.flags]
    return " ".join(spelled)


def _fish_words(value: Value) -> str:
    if value.words:
        return f"-a {quoted(' '.join(value.words))}"
    if value.folder:
        return "-a '(__fish_complete_directories)'"
    return "-F" if value.file else ""
