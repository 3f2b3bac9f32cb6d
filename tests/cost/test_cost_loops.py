"""Pools and recurrent ops against plain loops that compute what ONNX does, every operation counted."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from counting import Objects, Real, operations, reals, values
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import random, run
from reference import Given, expected, feeds, flops

SMALL = st.integers(1, 4)


def _total(numbers: list[Real]) -> Real:
    return sum(numbers[1:], start=numbers[0])


# Pools: a window an output.


def _pool(op: str, x: Objects, kernel: int) -> Objects:
    spans = [range(extent - kernel + 1) for extent in x.shape[2:]]
    result: Objects = np.empty((*x.shape[:2], *map(len, spans)), dtype=object)
    for place in itertools.product(range(x.shape[0]), range(x.shape[1]), *spans):
        window = x[place[:2]][tuple(slice(k, k + kernel) for k in place[2:])]
        result[place] = _one_window(op, list(window.flat))
    return result


def _one_window(op: str, window: list[Real]) -> Real:
    if op == "MaxPool":
        largest = window[0]
        for number in window[1:]:
            largest = largest.larger(number)
        return largest
    if op == "AveragePool":
        return _total(window) / Real(len(window))
    powers = [number.apply(abs).apply(lambda v: v**2) for number in window]
    return _total(powers).apply(math.sqrt)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@given(channels=SMALL, size=st.lists(st.integers(3, 5), min_size=1, max_size=2), kernel=st.integers(1, 3))
@settings(max_examples=10)
def test_pools_cost_their_windows(op: str, channels: int, size: list[int], kernel: int) -> None:
    inputs: list[Given] = [(1, channels, *size)]
    options: dict[str, Any] = {"kernel_shape": [kernel] * len(size)}
    (wanted,) = expected(op, inputs, **options)
    pooled, counted = operations(lambda: _pool(op, reals(feeds(inputs)["in0"]), kernel))
    np.testing.assert_allclose(values(pooled), wanted, rtol=1e-5)
    saved = pooled.size if op == "MaxPool" else 0  # the first of a window is compared with nothing
    assert flops(op, inputs, [wanted], **options) == counted + saved


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@given(channels=SMALL, size=st.integers(1, 5))
@settings(max_examples=5)
def test_global_pools_cost_every_element(op: str, channels: int, size: int) -> None:
    inputs: list[Given] = [(1, channels, size, size)]
    (wanted,) = expected(f"Global{op}", inputs)
    pooled, counted = operations(lambda: _pool(op, reals(feeds(inputs)["in0"]), size))
    np.testing.assert_allclose(values(pooled), wanted, rtol=1e-5)
    saved = pooled.size if op == "MaxPool" else 0
    assert flops(f"Global{op}", inputs, [wanted]) == counted + saved


def test_a_global_pool_is_a_pool_of_one_window() -> None:
    x, y = (1, 3, 4, 5), (1, 3, 1, 1)
    for op in ("MaxPool", "AveragePool", "LpPool"):
        assert flops(f"Global{op}", [x], [y]) == flops(op, [x], [y], kernel_shape=[4, 5])


def _normalised(x: Objects, size: int) -> Objects:
    """LRN, channels beyond the first and the last being 0."""
    result = x.copy()
    alpha, beta, bias = 1e-4, 0.75, Real(1)
    squares = np.concatenate(
        [reals(np.zeros(((size - 1) // 2, x.shape[1]))), x * x, reals(np.zeros((size // 2, x.shape[1])))]
    )
    for channel, place in np.ndindex(*x.shape):
        total = sum(squares[channel : channel + size, place], start=Real(0))
        divisor = (bias + total * Real(alpha / size)).apply(lambda v: v**beta)
        result[channel, place] = x[channel, place] / divisor
    return result


@given(channels=SMALL, length=SMALL, size=st.sampled_from([1, 3, 5]))
@settings(max_examples=10)
def test_local_response_costs_its_channels(channels: int, length: int, size: int) -> None:
    given = random(1, channels, length, 1)
    (wanted,) = run(
        "LRN", [given], 1, "", size=size
    )  # the reference implementation errs at the last channels
    x = reals(given[0, :, :, 0])
    result, counted = operations(lambda: _normalised(x, size))
    np.testing.assert_allclose(values(result), wanted[0, :, :, 0], rtol=1e-5)
    assert flops("LRN", [given], [wanted], size=size) == counted


def _overlaps(boxes: Objects) -> list[Real]:
    """Intersection over union of every pair, and how it compares with a threshold."""
    areas = [(c - a) * (d - b) for a, b, c, d in boxes]
    found = []
    for (one, first), (other, second) in itertools.combinations(zip(boxes, areas, strict=True), 2):
        top, left = one[0].larger(other[0]), one[1].larger(other[1])
        bottom, right = (one[k].smaller(other[k]) for k in (2, 3))
        shared = (bottom - top).larger(Real(0)) * (right - left).larger(Real(0))
        found.append((shared / (first + second - shared)).larger(Real(0.5)))
    return found


@pytest.mark.parametrize("boxes", [8, 20])
def test_suppression_costs_the_overlap_of_every_pair_at_most(boxes: int) -> None:
    _, counted = operations(lambda: _overlaps(reals(np.random.default_rng(3).uniform(0, 1, (boxes, 4)))))
    rule = flops("NonMaxSuppression", [(1, boxes, 4), (1, 1, boxes)], [(1, 3)])
    assert abs(rule - counted) <= 13 / 2 * boxes  # a box with itself, instead of its area
    assert flops("NonMaxSuppression", [(2, boxes, 4), (2, 5, boxes)], [(1, 3)]) == 10 * rule


# Recurrent cells, by the equations of their documentation.


def _sigmoid(x: Objects) -> Any:
    return np.vectorize(lambda v: v.apply(lambda t: 1 / (1 + math.exp(-t))), otypes=[object])(x)


def _tanh(x: Objects) -> Any:
    return np.vectorize(lambda v: v.apply(math.tanh), otypes=[object])(x)


def _dot(x: Objects, w: Objects) -> Any:
    """x · Wᵀ, each multiply-add two flops: sums begin with a zero."""
    sums = [
        [sum((a * b for a, b in zip(row, column, strict=True)), start=Real(0)) for column in w] for row in x
    ]
    return np.asarray(sums, dtype=object)


def _gates(x: Objects, h: Objects, w: Objects, r: Objects, bias: Objects) -> Any:
    return _dot(x, w) + _dot(h, r) + bias


def _lstm(x: Objects, w: Objects, r: Objects, bias: Objects) -> Any:
    hidden = r.shape[1]
    h = c = reals(np.zeros((x.shape[1], hidden)))
    for step in x:
        i, o, f, g = np.split(_gates(step, h, w, r, bias), 4, axis=1)
        c = _sigmoid(f) * c + _sigmoid(i) * _tanh(g)
        h = _sigmoid(o) * _tanh(c)
    return h


def _gru(x: Objects, w: Objects, r: Objects, bias: Objects) -> Any:
    hidden = r.shape[1]
    h, one = (reals(np.full((x.shape[1], hidden), value)) for value in (0, 1))
    for step in x:
        z, reset = np.split(
            _sigmoid(_gates(step, h, w[: 2 * hidden], r[: 2 * hidden], bias[: 2 * hidden])), 2, axis=1
        )
        candidate = _tanh(_gates(step, reset * h, w[2 * hidden :], r[2 * hidden :], bias[2 * hidden :]))
        h = (one - z) * candidate + z * h
    return h


def _rnn(x: Objects, w: Objects, r: Objects, bias: Objects) -> Any:
    h = reals(np.zeros((x.shape[1], r.shape[1])))
    for step in x:
        h = _tanh(_gates(step, h, w, r, bias))
    return h


CELLS = {"LSTM": (_lstm, 4), "GRU": (_gru, 3), "RNN": (_rnn, 1)}


@pytest.mark.parametrize("op", CELLS)
@given(steps=SMALL, batch=st.integers(1, 3), width=SMALL, hidden=SMALL)
@settings(max_examples=10)
def test_recurrent_ops_cost_their_equations(op: str, steps: int, batch: int, width: int, hidden: int) -> None:
    cell, gates = CELLS[op]
    inputs: list[Given] = [
        (steps, batch, width),
        (1, gates * hidden, width),
        (1, gates * hidden, hidden),
        (1, 2 * gates * hidden),
    ]
    y, last = expected(op, inputs, 2, hidden_size=hidden)
    x, w, r, b = feeds(inputs).values()
    bias = reals(np.add(*np.split(b[0], 2)))  # of both products, added once and for all
    result, counted = operations(lambda: cell(reals(x), reals(w[0]), reals(r[0]), bias))
    np.testing.assert_allclose(values(result), last[0], rtol=1e-4)
    assert flops(op, inputs, [y, last], hidden_size=hidden) == counted
