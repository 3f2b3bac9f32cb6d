"""Ops that sample an image against plain loops that compute what ONNX does, every operation counted."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from counting import Objects, Real, operations, reals, values
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Given, expected, feeds, flops

SMALL = st.integers(1, 3)


def _sample(image: Objects, y: float, x: float) -> Real:
    """A multiply-add for each of four neighbours, 0 outside; how near they are holds for all channels."""
    total, top, left = Real(0), math.floor(y), math.floor(x)
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        near = (1 - abs(y - row)) * (1 - abs(x - column))
        inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
        total = total + (image[row, column] if inside else Real(0)) * Real(near)
    return total


def _deformed(x: Objects, w: Objects, offset: Any) -> Objects:
    """A convolution of samples; each is taken once for all outputs."""
    outs, ins, high, wide = w.shape
    rows, columns = offset.shape[1:]
    result = np.empty((outs, rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        places = list(np.ndindex(high, wide))
        moved = [(row + i + offset[2 * n, row, column], column + j + offset[2 * n + 1, row, column])
                 for n, (i, j) in enumerate(places)]  # fmt: skip
        taken = [[_sample(x[c], *place) for place in moved] for c in range(ins)]
        for out in range(outs):
            terms = (taken[c][n] * w[out, c, i, j] for c in range(ins) for n, (i, j) in enumerate(places))
            result[out, row, column] = sum(terms, start=Real(0))
    return result


@given(ins=SMALL, outs=SMALL, size=st.integers(2, 4), kernel=st.integers(1, 2))
@settings(max_examples=10)
def test_deformed_convolutions_sample_each_input_once(ins: int, outs: int, size: int, kernel: int) -> None:
    spots = size - kernel + 1
    inputs: list[Given] = [
        (1, ins, size, size), (outs, ins, kernel, kernel), (1, 2 * kernel * kernel, spots, spots),
    ]  # fmt: skip
    (wanted,) = expected("DeformConv", inputs)
    x, w, offset = feeds(inputs).values()
    result, counted = operations(lambda: _deformed(reals(x[0]), reals(w), offset[0]))
    np.testing.assert_allclose(values(result), wanted[0], rtol=1e-4)
    assert flops("DeformConv", inputs, [wanted]) == counted


@given(channels=SMALL, bins=st.integers(1, 3), ratio=st.integers(1, 3))
@settings(max_examples=10)
def test_aligned_regions_cost_their_samples(channels: int, bins: int, ratio: int) -> None:
    box = np.asarray([[1, 1, 5, 5]], dtype=np.float32)
    inputs: list[Given] = [(1, channels, 8, 8), box, np.asarray([0])]
    options: dict[str, Any] = {
        "output_height": bins, "output_width": bins, "sampling_ratio": ratio,
        "coordinate_transformation_mode": "output_half_pixel",
    }  # fmt: skip
    (wanted,) = expected("RoiAlign", inputs, **options)
    spots = [1 + 4 * (k + 0.5) / (bins * ratio) for k in range(bins * ratio)]
    image = reals(feeds(inputs)["in0"][0])
    grids, counted = operations(lambda: [[[_sample(c, y, x) for x in spots] for y in spots] for c in image])
    means = values(grids).reshape(channels, bins, ratio, bins, ratio).mean(axis=(2, 4))
    np.testing.assert_allclose(means, wanted[0], rtol=1e-4)
    assert flops("RoiAlign", inputs, [wanted], **options) == counted


def test_a_region_as_large_as_the_image_is_compared_whole() -> None:
    assert flops("MaxRoiPool", [(2, 3, 6, 6), (5, 5)], [(5, 3, 1, 1)]) == 5 * flops(
        "GlobalMaxPool", [(1, 3, 6, 6)], [(1, 3, 1, 1)]
    )


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_columns_that_fold_into_an_image_cost_an_addition_each(kernel: int) -> None:
    spots = 6 - kernel + 1
    inputs: list[Given] = [
        (1, 2 * kernel**2, spots**2), np.asarray([6, 6]), np.asarray([kernel, kernel]),
    ]  # fmt: skip
    (wanted,) = expected("Col2Im", inputs)
    columns = reals(feeds(inputs)["in0"][0].reshape(2, kernel, kernel, spots, spots))
    image = reals(np.zeros((2, 6, 6)))

    def fold() -> None:
        for c, i, j, y, x in np.ndindex(*columns.shape):
            image[c, y + i, x + j] = image[c, y + i, x + j] + columns[c, i, j, y, x]

    _, counted = operations(fold)
    np.testing.assert_allclose(values(image), wanted[0], rtol=1e-5)
    assert flops("Col2Im", inputs, [wanted]) == counted
