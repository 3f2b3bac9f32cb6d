"""Writes arguments.json: the names of the arguments that serving stacks take, read out of their wheels.

    pip download --no-deps vllm==0.33.0 sglang==0.5.23 ai-dynamo==1.6.1 vllm-router==0.1.17 ...
    python extract.py FOLDER_OF_WHEELS

Nothing of a wheel is imported: argument definitions are found in the syntax tree.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

PARTS = {
    "vllm": (
        "vllm/engine/arg_utils.py",
        "vllm/entrypoints/launchers/cli_args.py",
        "vllm/entrypoints/common/cli_args.py",
        "vllm/entrypoints/openai/cli_args.py",
    ),
    "sglang": ("sglang/srt/server_args.py", "sglang/srt/arg_groups/fields/"),
    "ai_dynamo": (
        "dynamo/vllm/",
        "dynamo/sglang/",
        "dynamo/frontend/",
        "dynamo/router/",
        "dynamo/global_router/",
        "dynamo/global_planner/",
        "dynamo/planner/",
        "dynamo/common/configuration/",
    ),
    "vllm_router": ("vllm_router/router_args.py",),
    "sglang_router": ("sglang_router/router_args.py",),
}
"""Distribution to the files, or folders, that define its arguments."""

FIELDS = ("vllm/entrypoints/", "sglang/srt/arg_groups/fields/")
"""Those where each field of a class is an argument."""


def arguments(source: str, fields: bool) -> Iterator[str]:
    """Every name that is passed to an argument parser, with the negation of a switch that has one.

    With ``fields`` every annotated field is an argument, too, by the aliases that its annotation gives.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _called(node).endswith(("argument", "Arg")):
            names = [text for text in _texts(node) if text.startswith("--")]
            yield from names
            if "negatable" in _called(node) or "BooleanOptionalAction" in ast.unparse(node):
                yield from (f"--no-{name[2:]}" for name in names)
        elif fields and isinstance(node, ast.AnnAssign) and "no_cli=True" not in ast.unparse(node):
            yield f"--{ast.unparse(node.target).replace('_', '-')}"


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _texts(call: ast.Call) -> Iterator[str]:
    """Texts among the arguments of a call, those in lists and behind an f-string's prefix included."""
    for value in (*call.args, *(k.value for k in call.keywords)):
        for each in value.elts if isinstance(value, ast.List) else [value]:
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                yield each.value
            elif isinstance(each, ast.JoinedStr):
                yield "".join(str(p.value) for p in each.values if isinstance(p, ast.Constant))


def read(wheel: Path) -> dict[str, object]:
    """The argument names of one wheel."""
    name, version = wheel.name.split("-")[:2]
    found: set[str] = set()
    with zipfile.ZipFile(wheel) as archive:
        for path in archive.namelist():
            if path.endswith(".py") and path.startswith(PARTS[name]) and "/tests/" not in path:
                source = archive.read(path).decode("utf-8")
                found.update(arguments(source, path.startswith(FIELDS)))
    names = sorted(each for each in found if re.fullmatch(r"--[a-z0-9][a-z0-9-]*", each))
    return {"source": f"{wheel.name} (PyPI, Apache-2.0)", "version": version, "arguments": names}


def main() -> None:
    """Read every wheel of a folder."""
    wheels = sorted(Path(sys.argv[1]).glob("*.whl"))
    known = [wheel for wheel in wheels if wheel.name.split("-")[0] in PARTS]
    lists = {"-".join(wheel.name.split("-")[:2]): read(wheel) for wheel in known}
    target = Path(__file__).with_name("arguments.json")
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in lists.items())
    target.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
