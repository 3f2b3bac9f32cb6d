"""Groups requests into micro-batches whose prompts are equally long.

Graphs of some exporters have no attention mask, and none needs one if every row of a batch is as
long as the others: then every request runs as it would alone, whoever exported the model. Rows
stay in lock-step until all have their new tokens. Continuous batching would need a mask, or an op
that takes a length for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from disaggc.errors import JobError
from disaggc.plans import Plan
from disaggc.runtime.tensors import Array


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Requests of one prompt length: their positions among all requests, and tokens [batch, length]."""

    requests: tuple[int, ...]
    tokens: Array


def micro_batches(prompts: Sequence[Sequence[int]]) -> tuple[MicroBatch, ...]:
    """The prompts by length, in the order in which a length first appears."""
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(index)
    return tuple(
        MicroBatch(tuple(group), np.array([prompts[i] for i in group], np.int64)) for group in groups.values()
    )


def check_job(plan: Plan, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse what cannot be run.

    Raises:
        JobError: No prompts, an empty one, a token id below zero, no new tokens, or a context
            longer than the model's buffers.
    """
    if not prompts:
        raise JobError("There is no prompt. Give at least one.")
    if max_new_tokens < 1:
        raise JobError(f"Cannot generate {max_new_tokens} tokens. Ask for 1 or more.")
    capacity = min((s.fixed_capacity for s in plan.states if s.fixed_capacity), default=None)
    for index, prompt in enumerate(prompts):
        _check_prompt(index, prompt)
        needed = len(prompt) + max_new_tokens
        if capacity is not None and needed > capacity:
            raise JobError(
                f"Prompt {index} has {len(prompt)} tokens and {max_new_tokens} more are to come: {needed}, "
                f"but the model's cache holds {capacity}. Shorten the prompt, or ask for fewer tokens."
            )


def _check_prompt(index: int, prompt: Sequence[int]) -> None:
    if not prompt:
        raise JobError(
            f"Prompt {index} is empty. Give it at least one token, such as the begin-of-text token."
        )
    for token in prompt:
        if not 0 <= token < 2**31:
            raise JobError(f"Prompt {index} has the token id {token}. Token ids are whole numbers from 0.")
