"""Which stages are pieces of one LM head (neighbours on one pool), and the plan with the head in one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from disaggc.plans.model import PhasePlan, Plan, Stage

_HEAD = "head"


def head_pieces(stages: Sequence[Stage]) -> Mapping[int, str]:
    """Stages that are pieces of a head, by index, with what people call them: 'piece 3 of 8'.

    Args:
        stages: Of one phase, in order of execution.
    """
    found: dict[int, str] = {}
    for (_, is_head), run in itertools.groupby(stages, key=lambda s: (s.pool, _HEAD in s.roles)):
        pieces = list(run)
        if is_head and len(pieces) > 1:
            found |= {s.index: f"piece {k} of {len(pieces)}" for k, s in enumerate(pieces, 1)}
    return found


def with_whole_heads(plan: Plan) -> Plan:
    """The plan for whoever has one micro-batch at a time: an LM head in pieces is one stage again."""
    return replace(plan, prefill=_with_whole_head(plan.prefill), decode=_with_whole_head(plan.decode))


def _with_whole_head(phase: PhasePlan) -> PhasePlan:
    pieces = head_pieces(phase.stages)
    if phase.whole_head is None or not pieces:
        return phase
    spare, last = len(pieces) - 1, max(pieces)
    before, after = phase.stages[: phase.whole_head.index], phase.stages[last + 1 :]
    return PhasePlan(
        (*before, phase.whole_head, *(replace(s, index=s.index - spare) for s in after)),
        tuple(replace(t, after=t.after - spare) if t.after >= last else t for t in phase.transfers),
    )
