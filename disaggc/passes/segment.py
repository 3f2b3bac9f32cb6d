"""What is placed as one: the nodes of one role in one block, in an order without cycles."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import networkx as nx

from disaggc.cost import load_rules
from disaggc.frontends import onnx_signatures
from disaggc.ir import Graph, Role, Segment
from disaggc.passes.flow import links

Key = tuple[int, str, int]
LAUNCHED = ("gemm", "attention", "moe", "norm", "embedding", "elementwise")
"""Kernel kinds that count as a launch where no role says how many an engine starts."""


@dataclass(frozen=True)
class SegmentPass:
    """Fills in ``graph.segments``."""

    name: ClassVar[str] = "segment"
    launches: Mapping[str, int]

    @classmethod
    def load(cls, library: Path | None) -> SegmentPass:
        """With the declared kernels of each role."""
        return cls(load_rules(onnx_signatures(), library).launches)

    def apply(self, graph: Graph) -> Graph:
        """A new graph with segments in execution order; segments in a cycle are one."""
        keys = [self._key(graph, i) for i in range(len(graph.nodes))]
        merged = _without_cycles(graph, keys)
        members: dict[Key, list[int]] = {}
        for i, key in enumerate(merged):
            members.setdefault(key, []).append(i)
        segments: list[Segment] = []
        slots: dict[int | None, int] = {}
        for key in _execution_order(graph, merged):
            segments.append(self._segment(graph, len(segments), Role(key[1]), members[key], slots))
        return dataclasses.replace(graph, segments=tuple(segments))

    def _segment(
        self, graph: Graph, index: int, role: Role, nodes: list[int], slots: dict[int | None, int]
    ) -> Segment:
        layer = graph.marks[nodes[0]].layer
        slot = slots[layer] = slots.get(layer, -1) + 1
        names = {n for i in nodes for n in (*graph.nodes[i].reads, *graph.nodes[i].writes)}
        states = tuple(k for k, s in enumerate(graph.states) if s.past in names or s.present in names)
        layer_class = None if layer is None else graph.layers[layer].layer_class
        launches = self.launches.get(role.value, sum(graph.costs[i].kind in LAUNCHED for i in nodes))
        return Segment(index, role, layer, layer_class, slot, tuple(nodes), states, launches)

    @staticmethod
    def _key(graph: Graph, i: int) -> Key:
        """Block and role; ops without a role are placed one by one."""
        mark = graph.marks[i]
        block = -1 if mark.block is None else mark.block
        return (block, mark.role.value, i if mark.role is Role.GENERAL else 0)


def _quotient(graph: Graph, keys: list[Key]) -> nx.DiGraph[Key]:
    quotient: nx.DiGraph[Key] = nx.DiGraph()
    quotient.add_nodes_from(dict.fromkeys(keys))
    pairs = ((keys[i], keys[j]) for j, makers in enumerate(links(graph).before) for i in makers)
    quotient.add_edges_from(dict.fromkeys((a, b) for a, b in pairs if a != b))
    return quotient


def _without_cycles(graph: Graph, keys: list[Key]) -> list[Key]:
    """Segments that wait for each other become one, under the key of the largest."""
    quotient = _quotient(graph, keys)
    sizes: dict[Key, int] = {}
    for key in keys:
        sizes[key] = sizes.get(key, 0) + 1
    leader: dict[Key, Key] = {}
    for component in nx.strongly_connected_components(quotient):
        chosen = max(component, key=lambda k: (sizes[k], k))
        leader.update((key, chosen) for key in component)
    return [leader[key] for key in keys]


def _execution_order(graph: Graph, keys: list[Key]) -> list[Key]:
    """Block after block, then by role: the same order for whatever order the file lists its nodes in."""
    rank = {role.value: place for place, role in enumerate(Role)}
    return list(
        nx.lexicographical_topological_sort(_quotient(graph, keys), key=lambda k: (k[0], rank[k[1]], k[2]))
    )
