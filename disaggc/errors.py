"""Every error that disaggc raises on purpose, by who can mend it.

    DisaggcError
    ├── ModelError            the ONNX file
    │   ├── NotOnnxError          no ONNX protobuf, or a truncated one
    │   ├── WeightsError          weights missing, or outside the model's folder
    │   └── GraphError            the graph contradicts itself
    ├── TargetError           the machines and tiers
    │   ├── UnknownTargetError    no such name; carries the nearest ones
    │   └── DeclarationError      a TOML declaration that does not parse or check
    ├── JobError              the job file or the command's own arguments
    ├── PlanError             the plan folder
    │   └── OutputError           it cannot be written, or exists already
    ├── ExecutorError         these machines: an executor died, hangs, or cannot be started
    │   └── OutOfMemoryError      it has no memory for what a micro-batch needs
    └── InfeasiblePlanError   nobody: no placement satisfies the job; says what binds

Each class carries the exit code of the command: 1 bad input, 3 no feasible plan. Wrong use of
the command itself is argparse's 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


class DisaggcError(Exception):
    """The root: an error whose message says what, where, and the cure."""

    exit_code: ClassVar[int] = 1


class ModelError(DisaggcError):
    """The ONNX model is at fault."""


class NotOnnxError(ModelError):
    """The file is not an ONNX model, or ends before the model does."""


class WeightsError(ModelError):
    """Weights are missing or lie outside the model's folder."""


class GraphError(ModelError):
    """The graph contradicts itself."""


class TargetError(DisaggcError):
    """A declaration of a machine, link, tier, role or cost is at fault."""


class UnknownTargetError(TargetError):
    """No declaration has this name."""


class DeclarationError(TargetError):
    """A declaration file does not parse, or a field of it does not check."""


class JobError(DisaggcError):
    """The job asks for something that cannot be read."""


class PlanError(DisaggcError):
    """The plan folder is at fault."""


class OutputError(PlanError):
    """The output folder cannot be written, or exists already."""


class ExecutorError(DisaggcError):
    """An executor died or hangs, and a new one did no better; or there is no room for it."""


class OutOfMemoryError(ExecutorError):
    """An executor has no memory for what a micro-batch needs; the executor itself goes on."""


class InfeasiblePlanError(DisaggcError):
    """No placement satisfies the job; the message names what binds and what would relax it."""

    exit_code: ClassVar[int] = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """The cure for a misspelt name: ``" Did you mean 'x'?"``, or the list of names.

    Args:
        name: What the user wrote.
        known: The names that exist.

    Returns:
        A sentence that starts with a space, to be appended to a message.
    """
    names = sorted(known)
    folded = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{folded[close[0]]}'?"
    return f" Known names: {', '.join(names)}." if names else ""


def listed(names: Sequence[str], shown: int = 3) -> str:
    """The first few names in quotes, and how many more there are: ``"'a', 'b' and 5 more"``.

    Args:
        names: What to list; not empty.
        shown: How many are named.
    """
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(f"'{name}'" for name in names[:shown]) + more
