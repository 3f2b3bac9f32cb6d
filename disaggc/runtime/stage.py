"""One stage bound to its tensors: what is run once a step, and must cost next to nothing beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence

from disaggc.runtime.engine import OrtValue, Session

Values = MutableMapping[str, OrtValue]


class BoundStage:
    """A session with its inputs and outputs bound for one micro-batch in one phase.

    An input is bound again only if it became another tensor. A steady output whose shape was the
    same in two steps keeps its buffer from then on, so whoever reads it keeps its binding, too.
    """

    def __init__(self, session: Session, buffers: Mapping[str, OrtValue], steady: Collection[str]) -> None:
        """Bind what never changes.

        Args:
            session: The stage's subgraph.
            buffers: Outputs that are written into a given tensor: states in place.
            steady: Outputs that may keep one buffer, because their shape is declared to be the
                same in every step and nobody reads them in the next one.
        """
        self._session = session
        self._binding = session.io_binding()
        self._inputs = tuple(port.name for port in session.get_inputs())
        self._bound: dict[str, OrtValue] = {}
        names = [port.name for port in session.get_outputs()]
        self._moving = tuple((i, name) for i, name in enumerate(names) if name not in buffers)
        self._steady = frozenset(steady)
        self._shapes: dict[str, Sequence[int]] = {}
        for name in names:
            if name in buffers:
                self._binding.bind_ortvalue_output(name, buffers[name])
            else:
                self._binding.bind_output(name)

    def run(self, values: Values) -> None:
        """Take a step: read the inputs from ``values`` and leave the outputs there."""
        for name in self._inputs:
            value = values[name]
            if value is not self._bound.get(name):
                self._binding.bind_ortvalue_input(name, value)
                self._bound[name] = value
        for _, name in self._moving:
            self._binding.bind_output(name)
        self._session.run_with_iobinding(self._binding)
        if self._moving:
            self._collect(values)

    def _collect(self, values: Values) -> None:
        written = self._binding.get_outputs_as_ortvaluevector()
        for index, name in self._moving:
            values[name] = OrtValue(written[index])
        if self._steady:
            self._settle(values)

    def _settle(self, values: Values) -> None:
        """After the second step, let steady outputs of unchanged shape keep their buffers."""
        shapes = {name: values[name].shape() for name in self._steady}
        if self._shapes:
            settled = {name for name in shapes if shapes[name] == self._shapes[name]}
            self._moving = tuple((i, name) for i, name in self._moving if name not in settled)
            self._steady = frozenset()
        self._shapes = shapes
