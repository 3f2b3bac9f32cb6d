"""How tensors get from one pool's executor to another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from disaggc.runtime.executor import Executor
from disaggc.runtime.tensors import nbytes
from disaggc.runtime.wiring import Hop


@dataclass(slots=True)
class Traffic:
    """What has gone over one way between two pools."""

    messages: int = 0
    tensors: int = 0
    nbytes: int = 0


class Transport(Protocol):
    """Moves values of a micro-batch between executors."""

    @property
    def traffic(self) -> Mapping[tuple[str, str], Traffic]:
        """Activations that went from pool to pool so far; states handed over are not among them."""

    def send(self, batch: int, hop: Hop) -> None:
        """Bring the hop's values from its source to its target."""

    def hand_over(self, batch: int, hop: Hop) -> None:
        """Bring states from the executor that filled them to the one that goes on with them."""


class InProcess:
    """Executors of one process: a tensor changes hands, and nothing is copied."""

    def __init__(self, executors: Mapping[str, Executor]) -> None:
        self._executors = executors
        self._traffic: dict[tuple[str, str], Traffic] = {}

    @property
    def traffic(self) -> Mapping[tuple[str, str], Traffic]:
        """Activations that went from pool to pool so far."""
        return self._traffic

    def send(self, batch: int, hop: Hop) -> None:
        """Bring the hop's values from its source to its target."""
        values = self._executors[hop.source].values(batch, hop.names)
        self._executors[hop.target].receive(batch, values)
        traffic = self._traffic.setdefault((hop.source, hop.target), Traffic())
        traffic.messages += 1
        traffic.tensors += len(values)
        for value in values.values():
            traffic.nbytes += nbytes(value)

    def hand_over(self, batch: int, hop: Hop) -> None:
        """Bring states from the executor that filled them to the one that goes on with them."""
        values = self._executors[hop.source].values(batch, hop.names)
        self._executors[hop.target].receive(batch, values)
