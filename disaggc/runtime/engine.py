"""The runtime's one door to onnxruntime: the names it uses, and the types that the library leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from onnxruntime import (  # type: ignore[attr-defined]  # it re-exports without __all__
    InferenceSession,
    OrtValue,
    RunOptions,
    SessionOptions,
    __version__,
    set_global_thread_pool_sizes,
)

__all__ = [
    "Binding",
    "InferenceSession",
    "OrtValue",
    "Port",
    "RunOptions",
    "Session",
    "SessionOptions",
    "__version__",
    "executing",
    "set_global_thread_pool_sizes",
]


_RUN_OPTIONS = RunOptions()
"""What onnxruntime does by itself. Runs only read it."""


class Port(Protocol):
    """An input or output that a session declares."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def shape(self) -> Sequence[int | str | None]:
        """Its declared extents: a number, an exporter's symbol, or None."""


class Binding(Protocol):
    """Tensors bound to the inputs and outputs of a session."""

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Read an input from this tensor."""

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Write an output into this tensor."""

    def bind_output(self, name: str) -> None:
        """Let onnxruntime allocate an output in the next run, and write there from then on."""

    def get_outputs_as_ortvaluevector(self) -> Sequence[object]:
        """The outputs of the last run, in the order in which they were first bound."""


class Session(Protocol):
    """What the runtime uses of an ``InferenceSession``."""

    def get_inputs(self) -> Sequence[Port]:
        """The inputs, in order."""

    def get_outputs(self) -> Sequence[Port]:
        """The outputs, in order."""

    def io_binding(self) -> Binding:
        """A new binding with nothing bound."""

    def run_with_iobinding(self, iobinding: Binding) -> None:
        """Execute."""


def executing(session: Session, binding: Binding) -> Callable[[], None]:
    """What executes a session with a binding, and does nothing else.

    ``run_with_iobinding`` looks for captured graphs of other devices first, which takes as long as a
    small stage. The session below it is called directly where this onnxruntime has it. It is given run
    options because to find out that None is none of them takes it as long as all else in a call: it looks
    for a foreign type, and an error is raised and dropped.
    """
    inner = getattr(getattr(session, "_sess", None), "run_with_iobinding", None)
    bound = getattr(binding, "_iobinding", None)
    if inner is None or bound is None:
        return partial(session.run_with_iobinding, binding)
    return partial(inner, bound, _RUN_OPTIONS)
