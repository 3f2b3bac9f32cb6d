"""One stage bound to its tensors: what is run once a step, and must cost next to nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence

import numpy as np

from disaggc.runtime.engine import OrtValue, Session, executing
from disaggc.runtime.failures import FAILURES
from disaggc.runtime.tensors import view

Values = MutableMapping[str, OrtValue]


def _nowhere(_shape: Sequence[int], _number: int) -> None:
    """There is no place that others can read."""


class BoundStage:
    """A session with its inputs and outputs bound for one micro-batch in one phase.

    An input is bound again only if it became another tensor. An output whose shape was the same in
    two steps keeps its buffer from then on, so whoever reads it keeps its binding, too. Few graphs
    declare which shapes stay; where one that was not declared changes after all, onnxruntime refuses
    the buffer, and the step is taken again with buffers of its own.

    An output that leaves for other executors is written where they read it, if there is such a place.
    """

    def __init__(
        self,
        session: Session,
        buffers: Mapping[str, OrtValue],
        steady: Collection[str],
        observed: Collection[str] = (),
        leaving: Collection[str] = (),
        place: Callable[[Sequence[int], int], OrtValue | None] = _nowhere,
        *,
        may_repeat: bool = True,
    ) -> None:
        """Bind what never changes.

        Args:
            session: The stage's subgraph.
            buffers: Outputs that are written into a given tensor: states in place.
            steady: Outputs that may keep one buffer, because their shape is declared to be the
                same in every step and nobody reads them in the next one.
            observed: Outputs that may keep one buffer as long as their shape happens to stay, in a stage
                that ``may_repeat``.
            leaving: Outputs that others read.
            place: Gives a tensor of a shape and an element type's number where they can read it.
            may_repeat: Whether it does the same when it is run twice for a step.
        """
        self._binding = session.io_binding()
        self._execute = executing(session, self._binding)
        self._version = -1
        self._inputs = tuple(port.name for port in session.get_inputs())
        self._bound: dict[str, OrtValue] = {}
        self._names = [port.name for port in session.get_outputs()]
        self._moving = tuple((i, name) for i, name in enumerate(self._names) if name not in buffers)
        self._steady = frozenset(steady) | frozenset(observed)
        self._observed = frozenset(observed)
        self._leaving = frozenset(leaving)
        self._place = place
        self._may_repeat = may_repeat
        self._settled: frozenset[str] = frozenset()
        self._shapes: dict[str, Sequence[int]] = {}
        for name in self._names:
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
        for _, name in self._moving:
            self._binding.bind_output(name)
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
        return self._execute if self._may_repeat and not self._moving else None

    def _bind_inputs(self, values: Values) -> None:
        bound = self._bound
        for name in self._inputs:
            value = values[name]
            if value is not bound.get(name):
                self._binding.bind_ortvalue_input(name, value)
                bound[name] = value

    def _collect(self, values: Values) -> None:
        written = self._binding.get_outputs_as_ortvaluevector()
        for index, name in self._moving:
            values[name] = OrtValue(written[index])
        if self._steady:
            self._settle(values)

    def _settle(self, values: Values) -> None:
        """After the second step, let outputs of unchanged shape keep their buffers."""
        shapes = {name: values[name].shape() for name in self._steady}
        if self._shapes:
            settled = {name for name in shapes if shapes[name] == self._shapes[name]}
            self._moving = tuple((i, name) for i, name in self._moving if name not in settled)
            self._settled = self._observed & settled
            self._steady = frozenset()
            for name in self._leaving & settled:
                self._share(name, values)
        self._shapes = shapes

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
        names = {name for _, name in self._moving} | self._settled
        self._moving = tuple((i, name) for i, name in enumerate(self._names) if name in names)
        self._settled = frozenset()
        for _, name in self._moving:
            self._binding.bind_output(name)
