"""One stage bound to its tensors: what is run once a step, and must cost next to nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from disaggc.runtime.engine import OrtValue, Session, executing
from disaggc.runtime.failures import FAILURES
from disaggc.runtime.tensors import view

Values = MutableMapping[str, OrtValue]


@dataclass(slots=True)
class Outline:
    """A stage before it has tensors, and what all that are bound to some have in common.

    Attributes:
        session: The stage's subgraph.
        inputs: Names, in the session's order.
        outputs: Names, in the session's order.
        in_place: Outputs that are written into the tensor of a name that is there: states.
        steady: Outputs that may keep one buffer, because their shape is declared to be the
            same in every step and nobody reads them in the next one.
        observed: Outputs that may keep one buffer as long as their shape happens to stay, in a stage
            that ``may_repeat``.
        leaving: Outputs that others read.
        may_repeat: Whether it does the same when it is run twice for a step.
        proven: Outputs, of the steady and the observed, whose shape stayed in a micro-batch before.
    """

    session: Session
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    in_place: Mapping[str, str] = field(default_factory=dict)
    steady: frozenset[str] = frozenset()
    observed: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    may_repeat: bool = True
    proven: set[str] = field(default_factory=set)


def _nowhere(_shape: Sequence[int], _number: int) -> None:
    """There is no place that others can read."""


class BoundStage:
    """A session with its inputs and outputs bound for one micro-batch in one phase.

    An input is bound again only if it became another tensor. An output whose shape was the same in
    two steps, or in those of a micro-batch before, keeps its buffer from then on, so whoever reads it
    keeps its binding, too. Few graphs declare which shapes stay; where one that was not declared
    changes after all, onnxruntime refuses the buffer, and the step is taken again with buffers of its own.

    An output that leaves for other executors is written where they read it, if there is such a place.
    """

    def __init__(
        self,
        outline: Outline,
        buffers: Mapping[str, OrtValue] | None = None,
        place: Callable[[Sequence[int], int], OrtValue | None] = _nowhere,
    ) -> None:
        """Bind what never changes.

        Args:
            outline: The stage.
            buffers: Outputs that are written into a given tensor: those ``in_place``.
            place: Gives a tensor of a shape and an element type's number where others can read it.
        """
        buffers = buffers or {}
        self._outline = outline
        self._place = place
        self._binding = outline.session.io_binding()
        self._execute = executing(outline.session, self._binding)
        self._version = -1
        self._has_run = False
        self._bound: dict[str, OrtValue] = {}
        self._moving = tuple((i, name) for i, name in enumerate(outline.outputs) if name not in buffers)
        self._open = outline.steady | outline.observed
        self._settled: frozenset[str] = frozenset()
        self._shapes: dict[str, Sequence[int]] = {}
        for name in outline.outputs:
            if name in buffers:
                self._binding.bind_ortvalue_output(name, buffers[name])
            else:
                self._binding.bind_output(name)

    def run(self, values: Values, version: int = -1) -> bool:
        """Take a step: read the inputs from ``values`` and leave the outputs there.

        Args:
            values: Tensors by name.
            version: Another one if any of them became another tensor since the last step; -1 if that
                is not known.

        Returns:
            Whether outputs became other tensors.
        """
        if version != self._version or version < 0:
            self._bind_inputs(values)
            self._version = version
        for _, name in self._moving if self._has_run else ():
            self._binding.bind_output(name)
        self._has_run = True
        try:
            self._execute()
        except FAILURES:
            if not self._settled:
                raise
            self._unsettle()
            self._execute()
        if not self._moving:
            return False
        self._collect(values)
        return True

    @property
    def settled(self) -> Callable[[], None] | None:
        """What takes another step, if all tensors stay as they are; None while outputs may move.

        Where it fails the stage is to ``run``, so one that may not be run twice has none.
        """
        return self._execute if self._outline.may_repeat and not self._moving else None

    @property
    def is_settling(self) -> bool:
        """Whether the next step may show that an output can keep its buffer."""
        return bool(self._open)

    def _bind_inputs(self, values: Values) -> None:
        bound = self._bound
        for name in self._outline.inputs:
            value = values[name]
            if value is not bound.get(name):
                self._binding.bind_ortvalue_input(name, value)
                bound[name] = value

    def _collect(self, values: Values) -> None:
        written = self._binding.get_outputs_as_ortvaluevector()
        for index, name in self._moving:
            values[name] = OrtValue(written[index])
        if self._open:
            self._settle(values)

    def _settle(self, values: Values) -> None:
        """Let outputs keep their buffers: proven ones at once, others whose shape stayed."""
        proven, before = self._outline.proven, self._shapes
        shapes = {name: values[name].shape() for name in self._open - proven}
        stayed = {name for name, shape in shapes.items() if before.get(name) == shape}
        settled = (self._open & proven) | stayed
        if before:
            proven |= settled
        self._open = frozenset() if before else self._open - settled
        self._shapes = shapes
        self._settled |= self._outline.observed & settled
        self._moving = tuple((i, name) for i, name in self._moving if name not in settled)
        for name in self._outline.leaving & settled:
            self._share(name, values)

    def _share(self, name: str, values: Values) -> None:
        """Let an output be written where others read it, from now on; what it holds is brought there."""
        value = values[name]
        placed = self._place(value.shape(), value.element_type())
        if placed is not None:
            np.copyto(view(placed), view(value))
            self._binding.bind_ortvalue_output(name, placed)
            values[name] = placed

    def _unsettle(self) -> None:
        """What was observed does not hold: let onnxruntime allocate these outputs in every step."""
        outline = self._outline
        names = {name for _, name in self._moving} | self._settled
        outline.proven -= self._settled
        self._moving = tuple((i, name) for i, name in enumerate(outline.outputs) if name in names)
        self._settled = frozenset()
        for _, name in self._moving:
            self._binding.bind_output(name)
