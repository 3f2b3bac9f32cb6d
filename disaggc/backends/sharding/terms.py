"""Experts that an exporter wrote out one by one: a sum with a term for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from disaggc.backends.sharding.rows import is_product
from disaggc.backends.sharding.stage_graph import StageGraph
from disaggc.ir import Role


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a stage's experts.

    Attributes:
        place: Node that writes a term to the expert's number within its layer.
        count: Experts of each layer; 0 if there are none.
    """

    place: Mapping[int, int]
    count: int


def expert_terms(stage: StageGraph) -> Terms:
    """The terms of every sum over experts, each of which multiplies by weights of its own."""
    place: dict[int, int] = {}
    counts = set()
    uses = Counter(name for node in stage.nodes for name in node.input)
    uses.update(stage.outputs)
    for root in _roots(stage):
        weights = {leaf: _weights(stage, leaf) for leaf in _leaves(stage, root, uses)}
        terms = [leaf for leaf, own in weights.items() if own]
        distinct = frozenset().union(*weights.values())
        if len(terms) > 1 and len(distinct) == sum(map(len, weights.values())):
            counts.add(len(terms))
            place.update((leaf, k) for k, leaf in enumerate(sorted(terms)))
    return Terms(place, counts.pop()) if len(counts) == 1 else Terms({}, 0)


def _is_sum(stage: StageGraph, index: int | None) -> bool:
    if index is None:
        return False
    node = stage.nodes[index]
    return not node.domain and node.op_type in ("Add", "Sum") and stage.role(index) is Role.EXPERTS


def _roots(stage: StageGraph) -> Iterator[int]:
    """Sums that are no operand of another."""
    inner = {
        stage.producer.get(name)
        for i, node in enumerate(stage.nodes)
        if _is_sum(stage, i)
        for name in node.input
    }
    yield from (i for i in range(len(stage.nodes)) if _is_sum(stage, i) and i not in inner)


def _leaves(stage: StageGraph, root: int, uses: Mapping[str, int]) -> Iterator[int]:
    """The nodes that write the terms of a sum of sums; those that others read, too, are left out."""
    open_ones = [root]
    while open_ones:
        for name in stage.nodes[open_ones.pop()].input:
            index = stage.producer.get(name)
            if index is None or uses[name] > 1:
                continue
            if _is_sum(stage, index):
                open_ones.append(index)
            else:
                yield index


def _weights(stage: StageGraph, leaf: int) -> frozenset[str]:
    """Weights that products of experts multiply by on the way to a term."""
    found, seen, open_ones = set(), set(), [leaf]
    while open_ones:
        index = open_ones.pop()
        if index in seen or stage.role(index) is not Role.EXPERTS:
            continue
        seen.add(index)
        node = stage.nodes[index]
        if is_product(node) and node.input[1] in stage.folded:
            found.add(node.input[1])
        open_ones.extend(stage.producer[name] for name in node.input if name in stage.producer)
    return frozenset(found)
