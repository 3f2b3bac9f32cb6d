"""Runs the declared passes in order, verifying the graph after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from disaggc.errors import DeclarationError, GraphError, nearest
from disaggc.ir import Graph, verify
from disaggc.library import declarations, read_toml
from disaggc.passes.annotate_cost import AnnotateCost
from disaggc.passes.assign_roles import AssignRoles
from disaggc.passes.bind_workload import BindWorkload
from disaggc.passes.find_layers import FindLayers
from disaggc.passes.find_windows import FindWindows
from disaggc.passes.pair_state import PairState
from disaggc.passes.segment import SegmentPass
from disaggc.records import structure


class Pass(Protocol):
    """A frozen dataclass whose fields are its options."""

    name: ClassVar[str]

    def apply(self, graph: Graph) -> Graph:
        """A new graph with one more annotation."""
        ...


_PASSES: dict[str, Callable[[Path | None], Pass]] = {
    PairState.name: PairState.load,
    BindWorkload.name: BindWorkload.load,
    FindLayers.name: FindLayers.load,
    AssignRoles.name: AssignRoles.load,
    FindWindows.name: FindWindows.load,
    AnnotateCost.name: AnnotateCost.load,
    SegmentPass.name: SegmentPass.load,
}


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """One file of passes/pipelines/."""

    passes: tuple[str, ...]


def load_pipeline(name: str = "default", library: Path | None = None) -> tuple[Pass, ...]:
    """The passes that passes/pipelines/NAME.toml lists.

    Raises:
        DeclarationError: No such pipeline, or it names a pass that does not exist.
    """
    known = declarations("passes", "pipelines", library)
    if name not in known:
        raise DeclarationError(f"No pipeline named '{name}' in passes/pipelines/.{nearest(name, known)}")
    listed = structure(read_toml(known[name]), _Pipeline, str(known[name]), DeclarationError).passes
    for step in listed:
        if step not in _PASSES:
            raise DeclarationError(f"'{known[name]}' names no pass: '{step}'.{nearest(step, _PASSES)}")
    return tuple(_PASSES[step](library) for step in listed)


def run(
    graph: Graph,
    passes: Sequence[Pass],
    after: Callable[[str, Graph], None] | None = None,
) -> Graph:
    """The graph after all passes.

    Args:
        graph: As a frontend returns it.
        passes: In order.
        after: Called with each pass's name and result (``--print-after``, progress).

    Raises:
        GraphError: A pass broke the graph; the message names it and those before it.
    """
    done: list[str] = []
    for step in passes:
        given, graph = graph, step.apply(graph)
        try:
            verify(graph, before=given)
        except GraphError as error:
            before = f" (after {', '.join(done)})" if done else ""
            raise GraphError(f"Pass '{step.name}'{before} broke the graph: {error}") from error
        done.append(step.name)
        if after is not None:
            after(step.name, graph)
    return graph
