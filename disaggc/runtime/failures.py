"""What onnxruntime raises, told in our own terms.

Its exceptions share no base class but ``Exception``, so they are listed here, once.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from onnxruntime.capi import onnxruntime_pybind11_state as binding

from disaggc.errors import DisaggcError, JobError, ModelError, OutOfMemoryError, PlanError, WeightsError
from disaggc.runtime.engine import __version__
from disaggc.runtime.memory import no_memory

FAILURES: tuple[type[Exception], ...] = (
    binding.EPFail,
    binding.Fail,
    binding.InvalidArgument,
    binding.InvalidGraph,
    binding.InvalidProtobuf,
    binding.NoModel,
    binding.NoSuchFile,
    binding.NotImplemented,
    binding.RuntimeException,
    MemoryError,
    RuntimeError,
    ValueError,
)
"""Everything that loading or running a session raises; its own bindings add the last three."""

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_OUT_OF_BOUNDS = re.compile(r"idx=(-?\d+) must be within the inclusive range \[(-?\d+),(-?\d+)\]")
_NO_MEMORY = re.compile(
    r"Failed to allocate memory(?: for requested buffer of size (\d+))?"
    r"|bad_alloc|bad allocation|Unable to allocate"
)
_FIRST_LINES = 400


def load_error(error: Exception, file: str, is_stage: bool) -> DisaggcError:
    """Why a session could not be opened.

    Args:
        error: What onnxruntime raised; it names the op at fault.
        file: The stage's or the model's file, as the user knows it.
        is_stage: Whether it is a stage of a plan.
    """
    if _is_out_of_memory(error):
        return OutOfMemoryError(no_memory(f"opening '{file}'"))
    text = _told(error)
    if "External data path" in text or "external data" in text:
        return WeightsError(
            f"onnxruntime cannot read the weights of '{file}': {text} "
            f"Keep model and weight files in one folder, without links that lead out of it."
        )
    kind = PlanError if is_stage else ModelError
    return kind(
        f"onnxruntime {__version__} cannot load '{file}': {text} "
        f"Export the model with ops that its CPU provider has, or install a newer onnxruntime."
    )


def run_error(error: Exception, where: str, token_ids: Collection[int]) -> DisaggcError:
    """Why a stage failed while running.

    Args:
        error: What onnxruntime raised.
        where: The stage, as the user knows it.
        token_ids: Token ids of the step, to tell a bad token from a context that is too long.
    """
    if _is_out_of_memory(error):
        size = (_NO_MEMORY.search(str(error)) or [None, None])[1]
        buffer = f"a buffer of {int(size):,} bytes" if size else "a buffer"
        return OutOfMemoryError(no_memory(f"{buffer} of {where}"))
    text = _told(error)
    bounds = _OUT_OF_BOUNDS.search(text)
    if bounds is None:
        return PlanError(f"onnxruntime failed in {where}: {text} Compile the plan again.")
    index, last = int(bounds[1]), int(bounds[3])
    if index in token_ids:
        return JobError(f"Token id {index} is not in the model's vocabulary. Use ids from 0 to {last}.")
    return JobError(
        f"Position {index} is beyond the {last + 1} positions that the model has tables for ({where}). "
        f"Use a shorter prompt or fewer new tokens."
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether onnxruntime could not get memory: it says so in words alone."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def _told(error: Exception) -> str:
    text = _PREFIX.sub("", str(error).strip()).replace("\n", " ")
    text = text if len(text) <= _FIRST_LINES else text[:_FIRST_LINES] + " ..."
    return text if text.endswith((".", "...")) else text + "."
