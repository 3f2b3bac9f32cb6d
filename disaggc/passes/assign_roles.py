"""What each op is for, from structure and state; the evidence is kept.

Blocks that touch state are attention (passes/attention_roles.py), the others are FFN or experts
(passes/ffn_roles.py). What stands before the first block and after the last is embedding, final
norm and head; what all blocks share from the side (masks, positions, extents) is auxiliary.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.ir import Graph, Mark, Role
from disaggc.passes.attention_roles import attention_roles
from disaggc.passes.block import Finding, Found, blocks_of
from disaggc.passes.ffn_roles import ffn_roles
from disaggc.passes.flow import links
from disaggc.passes.residual import Stream, main_stream
from disaggc.passes.vocabulary import Ops, Vocabulary, load_vocabulary


@dataclass(frozen=True)
class AssignRoles:
    """Fills in roles and evidence in ``graph.marks``."""

    name: ClassVar[str] = "assign-roles"
    vocabulary: Vocabulary

    @classmethod
    def load(cls, library: Path | None) -> AssignRoles:
        """With the declared vocabulary."""
        return cls(load_vocabulary(library))

    def apply(self, graph: Graph) -> Graph:
        """A new graph in which every mark has its role."""
        found = _outside_blocks(graph, self.vocabulary.ops)
        for block in blocks_of(graph, self.vocabulary.ops):
            found.update(attention_roles(block) if block.cores else ffn_roles(block))
        _follow_readers(graph, self.vocabulary.ops.movement, found)
        marks = tuple(
            Mark(found[i].role, mark.layer, mark.block, *found[i][1:]) for i, mark in enumerate(graph.marks)
        )
        return dataclasses.replace(graph, marks=marks)


def _outside_blocks(graph: Graph, ops: Ops) -> Found:
    """Embedding, final norm and head, and what feeds blocks from the side."""
    stream = main_stream(graph, ops)
    outside = [i for i, mark in enumerate(graph.marks) if mark.block is None]
    if stream is None or not graph.layers:
        return dict.fromkeys(outside, Finding(Role.GENERAL, "no stream of tokens with layers is here"))
    found = _on_stream(graph, ops, stream)
    for i in reversed(outside):
        if i not in found:
            found[i] = _beside(graph, found, i)
    return found


def _on_stream(graph: Graph, ops: Ops, stream: Stream) -> Found:
    """Nodes of the stream before the first block and after the last."""
    blocks = [i for i in stream.order if graph.marks[i].block is not None]
    first, last = (blocks[0], blocks[-1]) if blocks else (stream.order[0] + 1, stream.order[0])
    after = (i for i in stream.order if i > last and graph.nodes[i].kind in ops.projection)
    head = next(after, len(graph.nodes))
    found: Found = {}
    for i in stream.order:
        if graph.marks[i].block is not None:
            continue
        if i < first:
            found[i] = Finding(Role.EMBEDDING, "on the only path from token ids to the first block")
        elif i >= head:
            found[i] = Finding(Role.HEAD, "after the last block, from its first product with weights on")
        else:
            found[i] = Finding(Role.NORM, "between the last block and the head")
    return found


def _beside(graph: Graph, found: Found, i: int) -> Finding:
    """A node beside the stream and outside blocks belongs to its reader if all readers agree."""
    readers = {found[j].role if j in found else None for j in links(graph).after[i]}
    role = next(iter(readers)) if len(readers) == 1 else None
    if role in (Role.EMBEDDING, Role.HEAD, Role.NORM):
        return Finding(role, f"read by the {role} alone")
    return Finding(Role.AUXILIARY, "masks, positions and extents, shared by blocks and beside the stream")


def _follow_readers(graph: Graph, movement: frozenset[str], found: Found) -> None:
    """A norm that only moves elements takes the role of its readers in the block (expanding for experts)."""
    after = links(graph).after
    for i in sorted(found, reverse=True):
        if found[i].role is not Role.NORM or graph.nodes[i].kind not in movement:
            continue
        readers = {found[j].role for j in after[i]}
        same = all(graph.marks[j].block == graph.marks[i].block for j in after[i])
        if len(readers) == 1 and same and Role.NORM not in readers:
            role = next(iter(readers))
            found[i] = Finding(role, f"moves elements for {role} alone")
