"""How the work of one stage is shared out: what is summed, who computes what, and in which order.

A node is *shared* (each shard computes it, or its part of it) or *owned* (shard 0 computes it: attention,
the head, whatever needs a sum). The two take turns, in *levels*: even ones are owned, odd ones shared. What
an owned level reads of a shared one is summed on the way; what a shared one reads is sent to each shard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from onnx import NodeProto

from disaggc.backends.onnxruntime.parts import reads
from disaggc.backends.sharding import experts, rows
from disaggc.backends.sharding.columns import Whole, Work, split
from disaggc.backends.sharding.cuts import Cut, undivided
from disaggc.backends.sharding.drawing import Drawing
from disaggc.backends.sharding.linear import partial_result
from disaggc.backends.sharding.lookups import LookedUp, looked_up, lookup_cuts
from disaggc.backends.sharding.stage_graph import REGION, StageGraph
from disaggc.backends.sharding.terms import Terms, expert_terms
from disaggc.ir import Role

Rule = Literal["row parallel", "expert parallel", "tensor parallel experts", "expert term", "expert lookup"]
_LIGHT = frozenset({Role.NORM, Role.AUXILIARY, None})
"""Cheap enough for each shard to compute for itself."""
_CUT = frozenset({Role.EXPERTS, Role.SHARED_EXPERT, Role.FFN})


@dataclass(frozen=True, slots=True)
class Degree:
    """Into how many shards a pool's feed-forward network is cut, and how its routed experts are."""

    kind: Literal["tp", "ep"]
    shards: int


@dataclass(frozen=True, slots=True)
class Seed:
    """A node whose result is a partial sum on each shard.

    Attributes:
        rule: How it is cut.
        cuts: What each shard has of it; an expert's term is on one shard only.
        lookup: The experts, where they are looked up.
    """

    rule: Rule
    cuts: tuple[Cut, ...] = ()
    lookup: LookedUp | None = None


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a stage is shared out.

    Attributes:
        seeds: Nodes that make partial sums.
        partial: Partial sums, and the shards that have a term of each.
        shared: Nodes that each shard computes, whole or in part.
        level: Of each node, but for constants and extents, which everybody computes for itself.
        faults: Why parts of the feed-forward network stay whole.
    """

    seeds: Mapping[int, Seed]
    partial: Mapping[str, frozenset[int]]
    shared: frozenset[int]
    level: Mapping[int, int]
    faults: tuple[str, ...]


def scheme_of(stage: StageGraph, degree: Degree, kept: Collection[str], states: frozenset[str]) -> Scheme:
    """Share out a stage.

    Args:
        stage: Its subgraph.
        degree: Into how many shards, and how.
        kept: Values that must not be partial sums: outputs of the model.
        states: What is kept from step to step, which stays with the owner.
    """
    sums = _Sums(stage, degree, kept)
    sums.find()
    free = frozenset(_free(stage, states))
    shared = frozenset(_shared(stage, sums, free, states))
    level = _levels(stage, shared, free)
    return Scheme(sums.seeds, sums.partial, shared, level, tuple(sums.faults))


def has_network(stage: StageGraph) -> bool:
    """Whether a stage holds products of a feed-forward network."""
    return any(stage.role(i) in _CUT and _is_cuttable(stage, i) for i in range(len(stage.nodes)))


def _is_cuttable(stage: StageGraph, index: int) -> bool:
    node = stage.nodes[index]
    return experts.is_fused(node) or rows.is_product(node)


class _Sums:
    """Finds the seeds, and how far partial sums go."""

    def __init__(self, stage: StageGraph, degree: Degree, kept: Collection[str]) -> None:
        self._stage, self._degree, self._kept = stage, degree, kept
        self.seeds: dict[int, Seed] = {}
        self.partial: dict[str, frozenset[int]] = {}
        self.faults: list[str] = []
        self._summed: dict[str, int] = {}
        self._terms = expert_terms(stage) if degree.kind == "ep" else Terms({}, 0)
        self._work = Work(stage, Drawing(), lambda name: name, self.is_own)

    def find(self) -> None:
        """Go through the stage once, in order."""
        self._check_terms()
        for i, node in enumerate(self._stage.nodes):
            if _is_folded(self._stage, i):
                continue
            if self._kept_free(i):
                self._find(i, node)
            self._count(node)
        self._check_roles()

    def _find(self, i: int, node: NodeProto) -> None:
        seed = self._seed(i)
        if seed is not None:
            self.seeds[i] = seed
            self.partial[node.output[0]] = frozenset(range(self._degree.shards))
        elif i in self._terms.place:
            shard = self._terms.place[i] * self._degree.shards // self._terms.count
            self.seeds[i] = Seed("expert term")
            self.partial[node.output[0]] = frozenset({shard})
        else:
            found = partial_result(self._stage, node, self.partial)
            if found and self._is_in_time(node):
                self.partial[node.output[0]] = found

    def _is_in_time(self, node: NodeProto) -> bool:
        """Whether what a linear op reads besides partial sums is there when they are.

        A residual stream that stayed a partial sum into the next layer would be summed twice.
        """
        sums = [self._summed.get(name, 0) for name in node.input if name in self.partial]
        others = [self._summed.get(name, 0) for name in node.input if name not in self.partial]
        return max(others, default=0) <= min(sums)

    def _count(self, node: NodeProto) -> None:
        """How many sums, one after the other, a value waits for."""
        waits = [self._summed.get(name, 0) for name in reads(node)]
        if not any(name in self.partial for name in node.output):
            waits += [self._summed.get(name, 0) + 1 for name in reads(node) if name in self.partial]
        self._summed.update(dict.fromkeys(node.output, max(waits, default=0)))

    def is_own(self, index: int) -> bool:
        """Whether each shard may compute a node: of the network, and of nothing that must be summed first."""
        node = self._stage.nodes[index]
        named = (*reads(node), *node.output)
        return (
            self._stage.role(index) in REGION
            and not any(name in self.partial for name in named)
            and not any(a.g.node for a in node.attribute)
        )

    def _kept_free(self, index: int) -> bool:
        return not any(name in self._kept for name in self._stage.nodes[index].output)

    def _check_terms(self) -> None:
        count, shards = self._terms.count, self._degree.shards
        if count % shards:
            self.faults.append(undivided(f"a layer has {count} experts", count, shards))
            self._terms = Terms({}, count)

    def _check_roles(self) -> None:
        """Each kind of network that is here is cut somewhere."""
        cut = {self._stage.role(i) for i in self.seeds}
        for i, node in enumerate(self._stage.nodes):
            role = self._stage.role(i)
            if role not in _CUT or role in cut or not _is_cuttable(self._stage, i) or self.faults:
                continue
            if role is Role.EXPERTS:
                form = "neither one op, nor a sum with a term for each, nor looked up by one index"
                whole = f"experts ({node.op_type} '{node.name}') are {form}; tp cuts within them"
                self.faults.append(
                    whole
                    if self._degree.kind == "ep"
                    else f"{node.op_type} '{node.name}' is no gated MLP that is known here"
                )
            elif self._degree.kind == "tp":
                self.faults.append(
                    f"{node.op_type} '{node.name}' is followed by none that takes its columns apart"
                )

    def _seed(self, index: int) -> Seed | None:
        """A node that makes partial sums, if it can; what keeps it from doing so is noted."""
        node, role = self._stage.nodes[index], self._stage.role(index)
        if role not in _CUT or any(name in self.partial for name in node.input):
            return None
        found: tuple[Cut, ...] | Whole
        rule: Rule
        lookup: LookedUp | None = None
        if experts.is_fused(node):
            by_expert = self._degree.kind == "ep"
            rule = "expert parallel" if by_expert else "tensor parallel experts"
            cuts = experts.expert_cuts if by_expert else experts.hidden_cuts
            found = cuts(self._stage, node, self._degree.shards)
        elif rows.is_product(node) and not (role is Role.EXPERTS and self._degree.kind == "ep"):
            rule = "row parallel"
            if not self._is_row(index):
                return None
            found = rows.inner_cuts(self._stage, node, self._degree.shards)
        elif rows.is_product(node) and not self._terms.count:
            rule = "expert lookup"
            lookup = looked_up(self._work, index)
            if lookup is None:
                return None
            found = lookup_cuts(lookup, self._degree.shards)
        else:
            return None
        if not isinstance(found, Whole):
            return Seed(rule, found, lookup)
        if role is Role.EXPERTS or self._degree.kind == "tp":
            self.faults.append(found.reason)
        return None

    def _is_row(self, index: int) -> bool:
        """Whether a product's inner dimension comes from columns of weights, for any number of shards."""
        node = self._stage.nodes[index]
        extent = rows.inner_extent(self._stage, node)
        if extent is None or self._stage.folded.issuperset(node.input[:2]):
            return False
        whole = Cut(0, extent, extent)
        operands = rows.operands(node)
        return all(not isinstance(split(self._work, n, axis, whole), Whole) for n, axis in operands)


def _free(stage: StageGraph, states: frozenset[str]) -> Iterator[int]:
    """Constants, and extents of what the stage is given: nodes that need no place."""
    found: set[int] = set()
    for i, node in enumerate(stage.nodes):
        sources = [name for name in reads(node) if name not in stage.folded]
        told = states.isdisjoint(sources) and all(
            name not in stage.producer or stage.producer[name] in found for name in sources
        )
        extent = stage.role(i) in (Role.AUXILIARY, None) and not any(a.g.node for a in node.attribute)
        if _is_folded(stage, i) or (extent and told and not set(node.output).intersection(stage.outputs)):
            found.add(i)
            yield i


def _shared(stage: StageGraph, sums: _Sums, free: Collection[int], states: frozenset[str]) -> set[int]:
    """Nodes that make or carry partial sums, and all that leads to these and is cheap or of the network."""
    makers = {stage.producer[name] for name in sums.partial}
    able = {
        i
        for i, node in enumerate(stage.nodes)
        if i not in free and states.isdisjoint(reads(node)) and _may_share(stage, sums, i)
    }
    wanted = _leading(stage, makers, able)
    found: set[int] = set(makers)
    for i in sorted(wanted):
        sources = {stage.producer[n] for n in reads(stage.nodes[i]) if n in stage.producer}
        if sums.is_own(i) or all(source in found or source in free for source in sources):
            found.add(i)
    return _leading(stage, makers, found)


def _leading(stage: StageGraph, makers: Collection[int], able: Collection[int]) -> set[int]:
    """The makers, and every node that leads to one by none but these and such as are able."""
    found = set(makers)
    names: set[str] = set()
    for i in range(len(stage.nodes) - 1, -1, -1):
        node = stage.nodes[i]
        if i in found or (i in able and not names.isdisjoint(node.output)):
            found.add(i)
            names.update(reads(node))
    return found


def _is_folded(stage: StageGraph, index: int) -> bool:
    return stage.folded.issuperset(name for name in stage.nodes[index].output if name)


def _may_share(stage: StageGraph, sums: _Sums, index: int) -> bool:
    """Whether each shard may compute a node, as far as the node itself tells."""
    if sums.is_own(index):
        return True
    node = stage.nodes[index]
    cheap = stage.role(index) in _LIGHT and not any(a.g.node for a in node.attribute)
    return cheap and not any(name in sums.partial for name in (*reads(node), *node.output))


def _levels(stage: StageGraph, shared: Collection[int], free: Collection[int]) -> dict[int, int]:
    """The turn in which each node is computed."""
    level: dict[int, int] = {}
    for i, node in enumerate(stage.nodes):
        if i in free:
            continue
        sources = {stage.producer[n] for n in reads(node) if n in stage.producer}.difference(free)
        turns = [level[s] + (0 if (s in shared) == (i in shared) else 1) for s in sources]
        level[i] = max(turns, default=1 if i in shared else 0)
    return level
