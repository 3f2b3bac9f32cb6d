"""Multi-head latent attention (MLA): which cache a model keeps, and what absorbing projections would change.

Keys and values are expanded from a latent of each token. A model may keep the latent, and expand all
of it in every step, or keep what was expanded. A serving engine may instead absorb the expansion into
the query and the output (DeepSeek-V2, arXiv 2405.04434, section 2.1.2): attention then runs over the
latent itself, as if it had one wide head for keys and values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from disaggc.ir import Dim, Graph
from disaggc.passes.block import Block, blocks_of
from disaggc.passes.vocabulary import Ops


@dataclass(frozen=True, slots=True)
class Latent:
    """MLA of one kind of layer.

    Attributes:
        layers: How many layers are like this.
        keeps: 'latent' or 'expanded': what the model's cache holds.
        heads: Query heads.
        rank: Elements of a token's latent.
        rope: Elements of its position part, shared by all heads.
        key, value: Elements of one head's key (its position part included) and value.
    """

    layers: int
    keeps: str
    heads: int
    rank: int
    rope: int
    key: int
    value: int

    @property
    def latent_elements(self) -> int:
        """Elements that a token adds to a latent cache, in one layer."""
        return self.rank + self.rope

    @property
    def expanded_elements(self) -> int:
        """Elements that a token adds to an expanded cache, in one layer."""
        return self.heads * (self.key + self.value)

    def decode_flops(self, total: int) -> dict[str, float]:
        """Flops of attention for one new token over ``total`` tokens, in one layer, by way of serving.

        'expanded': over kept keys and values. 'latent': the same, and all of the latent expanded anew.
        'absorbed': over the latent, and the query and the output taken through the expansion.
        """
        nope = self.key - self.rope
        attention = 2.0 * total * self.heads * (self.key + self.value)
        expansion = 2.0 * self.rank * self.heads * (nope + self.value)
        latent = 2.0 * total * self.heads * (self.rank + self.rope + self.rank)
        return {
            "expanded": attention + expansion,
            "latent": attention + expansion * total,
            "absorbed": latent + expansion,
        }


def latent_attention(graph: Graph, ops: Ops) -> list[Latent]:
    """The kinds of MLA that a graph has, the most frequent first; none for other attention."""
    found = Counter(latent for block in blocks_of(graph, ops) if (latent := _latent(block)) is not None)
    return [Latent(count, *one) for one, count in found.most_common()]


_Kind = tuple[str, int, int, int, int, int]


def _latent(block: Block) -> _Kind | None:
    """Keeps, heads, rank, rope, key and value of a block's MLA."""
    if not block.cores:
        return None
    expanding = _expanding(block)
    product = _products(block)
    if not expanding or product is None:
        return None
    heads, key, value = product
    rank, out = _extents_of(block, min(expanding))
    keeps = (
        "latent" if expanding & (block.downstream(block.cores) & block.upstream(block.cores)) else "expanded"
    )
    rope = key + value - out // heads if out % heads == 0 else -1
    return (keeps, heads, rank, rope, key, value) if 0 <= rope < key and rank else None


def _expanding(block: Block) -> set[int]:
    """Projections between a latent and what attention reads of it: of the cache, or on the way to it."""
    core = block.downstream(block.cores) & block.upstream(block.cores)
    cached = {i for i in core if any(s.past in block.node(i).reads for s in block.graph.states)}
    inside = core.intersection(block.projections, block.downstream(cached))
    if inside:
        return inside
    for source in _key_sources(block):
        above = block.upstream([source]) & block.projections
        last = {i for i in above if not (block.downstream([i]) - {i}) & above}
        if len(above) > 1 and len(last) == 1:
            return last
    return set()


def _key_sources(block: Block) -> list[int]:
    """Nodes that write what grows a cache; of an op that attends, its values, which carry no position."""
    found = []
    for state in block.graph.states:
        for i in block.nodes:
            node = block.node(i)
            if state.past in node.reads and node.kind not in block.ops.metadata:
                names = node.inputs[2:3] if node.kind in block.ops.attention else node.inputs
                found += [w for name in names if name != state.past and (w := block.writer(name)) is not None]
    return found


def _products(block: Block) -> tuple[int, int, int] | None:
    """Query heads, key and value elements a head, from the op or the products that attend."""
    for i in sorted(block.cores):
        node = block.node(i)
        if node.kind in block.ops.attention and len(node.inputs) > 2:
            query, out = (_shape(block, name) for name in (node.inputs[0], node.outputs[0]))
            if len(query) == 4 and len(out) == 4 and isinstance(query[1], int):
                return query[1], _whole(query[3]), _whole(out[3])
            heads = node.attributes.get("q_num_heads", node.attributes.get("num_heads"))
            if isinstance(heads, int) and len(query) == 3 and len(out) == 3:
                return heads, _whole(query[2]) // heads, _whole(out[2]) // heads
    return None


def _extents_of(block: Block, projection: int) -> tuple[int, int]:
    """Features in and out of a projection."""
    node = block.node(projection)
    weight = next((name for name in node.inputs if name in block.weights), "")
    shape = block.graph.weights[weight].shape if weight in block.graph.weights else _shape(block, weight)
    return (_whole(shape[-2]), _whole(shape[-1])) if len(shape) == 2 else (0, 0)


def _shape(block: Block, name: str) -> tuple[Dim, ...]:
    value = block.graph.values.get(name)
    return (value.shape if value is not None else None) or ()


def _whole(dim: Dim) -> int:
    return dim if isinstance(dim, int) else 0
