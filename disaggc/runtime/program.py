"""What one pool does in one step of a phase, without anybody telling it when: its part of the wiring.

A pool runs its stages in order, each as soon as what it needs from other pools has arrived. One
pool, the *lead*, computes the logits: it chooses the tokens and starts the next step. That is safe
only if nobody is still at work on the last one, so pools that the logits do not depend on report to
the lead when they are done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from disaggc.runtime.wiring import Hop, Phase, Wiring


@dataclass(frozen=True, slots=True)
class Turn:
    """One stage of a pool.

    Attributes:
        stage: Its index in the phase.
        needs: Arrivals without which it cannot run: indices of stages whose values were sent here,
            or those of lent states (see ``lent_index``).
        hops: What leaves for other pools after it.
    """

    stage: int
    needs: frozenset[int]
    hops: tuple[Hop, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A pool's part of one step.

    Attributes:
        phase: The phase.
        turns: Its stages, in order.
        lends: States that it lends to others before the step, with their indices.
        feeds: Model inputs that it computes for itself.
        kept: States that it keeps from step to step.
        is_lead: Whether it chooses the tokens.
        is_started: Whether it waits for the lead's word before a step, which brings the tokens.
        started: The pools that wait for this lead's word.
        awaited: What the lead waits for after its last stage: last stages of pools that report.
        reports: Whether it tells the lead when it is done.
        arrivals: What arrives here, by the index under which it does.
    """

    phase: Phase
    turns: tuple[Turn, ...]
    lends: tuple[tuple[int, Hop], ...]
    feeds: tuple[str, ...]
    kept: tuple[str, ...]
    is_lead: bool
    is_started: bool
    started: tuple[str, ...]
    awaited: frozenset[int]
    reports: bool
    arrivals: Mapping[int, tuple[str, ...]]


def lent_index(number: int) -> int:
    """The index under which the ``number``-th lent hop of a phase arrives; stages have 0 and up."""
    return -1 - number


def _names(wiring: Wiring, index: int, target: str) -> tuple[str, ...]:
    if index < 0:
        return wiring.lent[-1 - index].names
    return next((hop.names for hop in wiring.hops[index] if hop.target == target), ())


def program_of(wiring: Wiring, phase: Phase, pool: str, token_inputs: Collection[str]) -> Program:
    """The part of a pool that takes part in a phase.

    Args:
        wiring: How values flow in the phase.
        phase: The phase.
        pool: The pool.
        token_inputs: Model inputs that are token ids.
    """
    lead = wiring.logits
    turns = _turns(wiring, pool)
    lends = tuple((lent_index(i), hop) for i, hop in enumerate(wiring.lent) if hop.source == pool)
    waiting = tuple(other for other in wiring.pools if other != lead and _waits(wiring, other, token_inputs))
    reporting = _reporting(wiring)
    return Program(
        phase=phase,
        turns=turns,
        lends=lends,
        feeds=wiring.feeds[pool],
        kept=wiring.kept_by(pool),
        is_lead=pool == lead,
        is_started=pool in waiting,
        started=waiting if pool == lead else (),
        awaited=frozenset(reporting.values()) if pool == lead else frozenset(),
        reports=pool in reporting,
        arrivals={need: _names(wiring, need, pool) for turn in turns for need in turn.needs},
    )


def _turns(wiring: Wiring, pool: str) -> tuple[Turn, ...]:
    """The pool's stages; an arrival is waited for by the first stage after it was sent."""
    arrivals = [index for index, hops in enumerate(wiring.hops) if any(hop.target == pool for hop in hops)]
    lent = {lent_index(i) for i, hop in enumerate(wiring.lent) if hop.target == pool}
    turns = []
    for index in _stages(wiring, pool):
        needs = lent | {arrival for arrival in arrivals if arrival < index}
        arrivals = [arrival for arrival in arrivals if arrival > index]
        turns.append(Turn(index, frozenset(needs), wiring.hops[index]))
        lent = set()
    return tuple(turns)


def _stages(wiring: Wiring, pool: str) -> list[int]:
    return [index for index, stage in enumerate(wiring.stages) if stage.pool == pool]


def _waits(wiring: Wiring, pool: str, token_inputs: Collection[str]) -> bool:
    """Whether a pool needs the lead's word: for its tokens, or because nothing else holds it back."""
    reads_tokens = any(name in token_inputs for name in wiring.feeds[pool])
    lends = any(hop.source == pool for hop in wiring.lent)
    return reads_tokens or lends or not _turns(wiring, pool)[0].needs


def _reporting(wiring: Wiring) -> dict[str, int]:
    """Pools whose last stage the lead's last stage does not depend on, and that stage."""
    upstream = _upstream(wiring, _stages(wiring, wiring.logits)[-1])
    last = {pool: _stages(wiring, pool)[-1] for pool in wiring.pools}
    return {pool: index for pool, index in last.items() if index not in upstream}


def _upstream(wiring: Wiring, last: int) -> set[int]:
    """A stage and all that it waits for, directly or not."""
    before: dict[int, Iterable[int]] = {}
    for pool in wiring.pools:
        previous: list[int] = []
        for turn in _turns(wiring, pool):
            before[turn.stage] = [*previous, *(need for need in turn.needs if need >= 0)]
            previous = [turn.stage]
    found, open_ones = set(), [last]
    while open_ones:
        stage = open_ones.pop()
        if stage not in found:
            found.add(stage)
            open_ones.extend(before[stage])
    return found
