"""Runs a plan and the uncut model side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from disaggc.plans import Plan
from disaggc.runtime.driver import deploy
from disaggc.runtime.execution import Execution
from disaggc.runtime.reference import deploy_reference
from disaggc.runtime.results import RunResult

_HERE = Execution()


@dataclass(frozen=True, slots=True)
class Comparison:
    """One request, run both ways.

    Attributes:
        tokens_equal: Whether every new token agrees.
        first_difference: The first new token that differs, None if all agree.
        difference: Largest absolute difference between logits, as long as the contexts agree;
            infinite where one of them is not a number and the other is.
        magnitude: Largest absolute logit of the uncut model over the same steps.
    """

    tokens_equal: bool
    first_difference: int | None
    difference: float
    magnitude: float


@dataclass(frozen=True, slots=True)
class Verification:
    """How a plan's run compares with the uncut model's."""

    requests: tuple[Comparison, ...]
    planned: RunResult
    reference: RunResult

    @property
    def tokens_equal(self) -> bool:
        """Whether every token of every request agrees."""
        return all(request.tokens_equal for request in self.requests)

    @property
    def difference(self) -> float:
        """The largest absolute difference between logits."""
        return max(request.difference for request in self.requests)

    @property
    def magnitude(self) -> float:
        """The largest absolute logit of the uncut model."""
        return max(request.magnitude for request in self.requests)


def verify(
    plan: Plan,
    folder: Path,
    model_folder: Path,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    threads: int = 1,
    execution: Execution = _HERE,
) -> Verification:
    """Run a plan, every stage of it, and the uncut model with the same prompts; a difference is no error.

    Args and errors are those of ``run``; the model file itself must be in ``model_folder``. A request
    that fails is an error here.
    """
    with deploy_reference(plan, model_folder, threads) as deployment:
        uncut = deployment.generate(prompts, max_new_tokens, keep_logits=True)
    every_stage = replace(execution, whole_heads=False)
    with deploy(plan, folder, model_folder, threads, every_stage) as deployment:
        planned = deployment.generate(prompts, max_new_tokens, keep_logits=True)
    for error in (*uncut.failures.values(), *planned.failures.values()):
        raise error
    return Verification(
        tuple(_compare(planned, uncut, i) for i in range(len(prompts))), planned=planned, reference=uncut
    )


def _compare(planned: RunResult, uncut: RunResult, request: int) -> Comparison:
    ours, theirs = planned.tokens[request], uncut.tokens[request]
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
    steps = len(ours) if first is None else first + 1
    a, b = planned.logits[request][:steps], uncut.logits[request][:steps]
    with np.errstate(invalid="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return Comparison(
        tokens_equal=first is None,
        first_difference=first,
        difference=float(np.nan_to_num(gap, nan=np.inf).max()),
        magnitude=float(np.nanmax(np.abs(b))),
    )
