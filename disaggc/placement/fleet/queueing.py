"""What waiting does to the time to the first token: prompts arrive at random, service takes a fixed time.

Mean wait of M/D/1 (Pollaczek-Khinchine with no variance of service): W = s * rho / (2 * (1 - rho)) with
service time s and utilisation rho.
"""

from __future__ import annotations

import numpy as np

from disaggc.cost import Array

BUSIEST = 0.95
"""Utilisation that no prefill pool is planned beyond, however long its tier may wait; inferred."""


def utilisation_for(service_s: Array, allowed_wait_s: Array) -> Array:
    """The most that a server may be busy for its queue to cost no more than a wait on average; 0 if never."""
    wait = np.maximum(allowed_wait_s, 0.0)
    busiest: Array = np.minimum(2 * wait / (service_s + 2 * wait), BUSIEST)
    return np.where(allowed_wait_s > 0, busiest, 0.0)


def wait_s(service_s: Array, utilisation: Array) -> Array:
    """Mean wait before service; infinite at a utilisation of 1 and beyond."""
    free = np.maximum(1 - utilisation, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(free > 0, service_s * utilisation / (2 * free), np.inf)


def shared_ttft(prompt_s: float, step_s: Array, decode_s: Array, prefill_s: Array) -> Array:
    """Time to the first token where prefill takes what decode leaves of each step.

    Args:
        prompt_s: One prompt alone.
        step_s: Of a decode step.
        decode_s: Of a step that decode keeps the pool busy.
        prefill_s: Of a step that its share of prompts keeps the pool busy.
    """
    left = step_s - decode_s
    with np.errstate(divide="ignore", invalid="ignore"):
        service = np.where(left > 0, prompt_s * step_s / np.maximum(left, 1e-300), np.inf)
        busy = np.where(left > 0, prefill_s / np.maximum(left, 1e-300), 1.0)
        return service + np.where(busy <= BUSIEST, wait_s(service, busy), np.inf)


def paced(prompt_s: float, least_s: Array, decode_s: Array, prefill_s: Array, ttft_s: float) -> Array:
    """The least step at which prompts that share the pool start in time; infinite if none does.

    With L what decode leaves of a step, ``shared_ttft`` = W is a quadratic in L,

        2 (W - s) L^2 - (2 W P + s (2 D - P)) L + s D P = 0,

    of prompt time s, decode share D and prefill share P; it falls with L beyond the larger root.

    Args:
        prompt_s: One prompt alone.
        least_s: The least step that the pool can keep up.
        decode_s: Of a step that decode keeps the pool busy.
        prefill_s: Of a step that its share of prompts keeps the pool busy.
        ttft_s: What the tier allows; infinite for anything.
    """
    if not ttft_s > prompt_s:
        return np.full_like(least_s, np.inf)
    busiest = prefill_s / BUSIEST
    if np.isinf(ttft_s):
        return np.maximum(least_s, decode_s + busiest)
    square = 2 * (ttft_s - prompt_s)
    linear = 2 * ttft_s * prefill_s + prompt_s * (2 * decode_s - prefill_s)
    rest = prompt_s * decode_s * prefill_s
    left = (linear + np.sqrt(np.maximum(linear**2 - 4 * square * rest, 0.0))) / (2 * square)
    return np.maximum(least_s, decode_s + np.maximum(left, busiest))
