"""How many attention instances one FFN instance should serve.

With r attention instances of batch B in front of one FFN instance, a step takes (arXiv 2601.21351)

    tau(r) = max(t_A, t_C, beta_F + alpha_F B r),   tokens/s per instance = r B / ((r + 1) tau(r))

t_A: attention and t_C: exchange, whatever r is; beta_F: the fixed part of the FFN's step (weights, launches);
alpha_F B: what the tokens of one more attention instance add to it. Tokens/s per instance is largest at

    r* = max(r_A, r_C, r_peak)     r_A = (t_A - beta_F) / (alpha_F B)     r_peak = sqrt(beta_F / (alpha_F B))
                                   r_C = (t_C - beta_F) / (alpha_F B)

Up to r_A and r_C the FFN waits, so more attention is free; beyond, each instance costs time, and pays as
long as it spreads the fixed part over more of them. Balance (t_A = t_F) is not the goal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from disaggc.cost.bill import Array
from disaggc.errors import JobError

FEASIBLE = 1e-9
"""By how much, relative to the longest step, a fit may violate a constraint: rounding."""


@dataclass(frozen=True, slots=True)
class RatioModel:
    """The step time of r attention instances in front of one FFN instance.

    Attributes:
        attention_s: t_A.
        ffn_fixed_s: beta_F.
        ffn_per_instance_s: alpha_F B.
        exchange_s: t_C; 0 where it is hidden or part of the others.
    """

    attention_s: float
    ffn_fixed_s: float
    ffn_per_instance_s: float
    exchange_s: float = 0.0

    def step_s(self, ratio: float) -> float:
        """tau(r), seconds."""
        ffn = self.ffn_fixed_s + self.ffn_per_instance_s * ratio
        return max(self.attention_s, self.exchange_s, ffn)

    def rate(self, ratio: float) -> float:
        """Batches of one attention instance that each instance, of either kind, finishes in a second."""
        return ratio / ((ratio + 1) * self.step_s(ratio))

    @property
    def r_attention(self) -> float:
        """r_A: from here on the FFN is slower than attention; infinite if it never is."""
        return self._reaches(self.attention_s)

    @property
    def r_exchange(self) -> float:
        """r_C: from here on the FFN is slower than the exchange."""
        return self._reaches(self.exchange_s)

    @property
    def r_peak(self) -> float:
        """Where tokens/s per instance peak if the FFN alone sets the pace."""
        if self.ffn_per_instance_s <= 0:
            return math.inf
        return math.sqrt(max(0.0, self.ffn_fixed_s) / self.ffn_per_instance_s)

    @property
    def r_best(self) -> float:
        """r*, the best ratio if instances could be divided."""
        return max(self.r_attention, self.r_exchange, self.r_peak)

    def best_of(self, ratios: Iterable[float]) -> float:
        """The ratio of highest rate among those that can be built; the smallest of equals."""
        return min(ratios, key=lambda ratio: (-self.rate(ratio), ratio))

    def _reaches(self, seconds: float) -> float:
        """The ratio at which the FFN's step takes so long."""
        if self.ffn_per_instance_s <= 0:
            return math.inf if seconds > self.ffn_fixed_s else 0.0
        return (seconds - self.ffn_fixed_s) / self.ffn_per_instance_s


@dataclass(frozen=True, slots=True)
class RatioFit:
    """A model fitted to measured steps; ``mape`` is its mean absolute error relative to them."""

    model: RatioModel
    mape: float


def fit_ratio(ratios: Sequence[float], steps_s: Sequence[float]) -> RatioFit:
    """The model max(t_A, beta_F + alpha_F B r) of least squared relative error.

    Exact: whichever measurements lie on the flat part, t_A, beta_F and alpha_F B are the solution of
    linear least squares under linear constraints (the parts meet between those measurements, nothing
    is negative); each of the few sets of active constraints is solved, the best feasible one taken. Where
    no measurement is on the flat part t_A is 0, where all are the FFN's share is.

    Args:
        ratios: Attention instances per FFN instance; at least three different ones.
        steps_s: The seconds that a step took at each.

    Raises:
        JobError: Too few ratios, or a step that took no time.
    """
    _check(ratios, steps_s)
    order = np.argsort(ratios)
    r, t = (np.asarray(values, dtype=np.float64)[order] for values in (ratios, steps_s))
    candidates = (found for flat in range(len(r) + 1) for found in _with_flat(r, t, flat))
    model = min(candidates, key=lambda found: float(np.sum(_errors(found, r, t) ** 2)))
    return RatioFit(model, float(np.mean(np.abs(_errors(model, r, t)))))


def _check(ratios: Sequence[float], steps_s: Sequence[float]) -> None:
    different = len(set(ratios))
    if different < 3:
        raise JobError(f"Steps at {different} different ratios leave the model open. Measure at least 3.")
    if min(steps_s) <= 0:
        raise JobError(f"A step of {min(steps_s):g} s was measured; steps take more than 0 s.")


def _errors(model: RatioModel, r: Array, t: Array) -> Array:
    return np.array([model.step_s(ratio) for ratio in r]) / t - 1


def _with_flat(r: Array, t: Array, flat: int) -> Iterable[RatioModel]:
    """Feasible models with the first ``flat`` measurements on the flat part, one for each active set."""
    rows = np.array([[1.0, 0.0, 0.0]] * flat + [[0.0, 1.0, ratio] for ratio in r[flat:]])
    constraints = _constraints(r, flat)
    for size in range(3):
        for active in itertools.combinations(range(len(constraints)), size):
            found = _least_squares(rows / t[:, None], constraints[list(active)])
            if (constraints @ found >= -FEASIBLE * t.max()).all():
                yield RatioModel(*(max(0.0, float(value)) for value in found))


def _constraints(r: Array, flat: int) -> Array:
    """Rows c with c (t_A, beta_F, alpha_F B) >= 0."""
    rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    if flat > 0:
        rows.append([1.0, -1.0, -float(r[flat - 1])])
    if flat < len(r):
        rows.append([-1.0, 1.0, float(r[flat])])
    return np.array(rows)


def _least_squares(rows: Array, active: Array) -> Array:
    """The x of least norm that minimises |rows x - 1| with active x = 0."""
    basis = np.eye(3)
    if len(active):
        _, sizes, turned = np.linalg.svd(active)
        basis = turned[int((sizes > FEASIBLE).sum()) :].T
    inner, *_ = np.linalg.lstsq(rows @ basis, np.ones(len(rows)), rcond=None)
    found: Array = basis @ inner
    return found
