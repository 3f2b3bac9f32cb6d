"""Products, transforms, interpolation and selection against plain loops, every operation counted."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from counting import Objects, Real, array, multiply_adds, operations, reals, values
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Given, Shape, expected, feeds, flops

SMALL = st.integers(1, 4)

EQUATIONS: list[tuple[str, list[Shape]]] = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("i,j->ij", [(3,), (4,)]),
    ("ij,ij->", [(3, 4), (3, 4)]),
    ("i,ij,j->", [(3,), (3, 4), (4,)]),
    ("...ij,...jk->...ik", [(2, 3, 4, 5), (3, 5, 2)]),
    ("ij,jk", [(2, 3), (3, 4)]),
]


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS, ids=[e for e, _ in EQUATIONS])
def test_einsum_costs_the_products_of_every_point_and_their_sums(equation: str, shapes: list[Shape]) -> None:
    inputs: list[Given] = list(shapes)
    (result,) = expected("Einsum", inputs, equation=equation)
    counted = multiply_adds(lambda: np.einsum(equation, *(array(*shape) for shape in shapes)))
    points = counted // (len(shapes) - 1)
    added = 0 if points == result.size else points
    assert flops("Einsum", inputs, [result], equation=equation) == counted + added


def test_einsum_of_one_operand_costs_its_sums() -> None:
    assert flops("Einsum", [(3, 4)], [(3,)], equation="ij->i") == 12
    assert flops("Einsum", [(3, 4)], [(4, 3)], equation="ij->ji") == 0


def _transform(x: list[tuple[Real, Real]]) -> list[tuple[Real, Real]]:
    """Cooley and Tukey, radix 2; turns are tables."""
    if len(x) == 1:
        return x
    even, odd, result = _transform(x[::2]), _transform(x[1::2]), list(x)
    for k, ((a, b), (c, d)) in enumerate(zip(even, odd, strict=True)):
        angle = -2 * math.pi * k / len(x)
        cos, sin = Real(math.cos(angle)), Real(math.sin(angle))
        real, imaginary = c * cos - d * sin, c * sin + d * cos
        result[k], result[k + len(x) // 2] = (a + real, b + imaginary), (a - real, b - imaginary)
    return result


@pytest.mark.parametrize("points", [2, 8, 32])
def test_a_fourier_transform_costs_its_butterflies(points: int) -> None:
    inputs: list[Given] = [(1, points, 2)]
    (wanted,) = expected("DFT", inputs)
    signal = [(a, b) for a, b in reals(feeds(inputs)["in0"][0])]
    result, counted = operations(lambda: _transform(signal))
    np.testing.assert_allclose(values(result), wanted[0], atol=1e-4)
    assert flops("DFT", inputs, [wanted]) == counted
    frames: list[Given] = [(1, 4 * points, 2), np.asarray(points), (points,)]
    assert flops("STFT", frames, [(1, 4, points, 2)], onesided=0) == 4 * counted


def _determinant(matrix: Objects) -> Real:
    rows, product = matrix.copy(), Real(1)
    for k in range(len(rows)):
        product = product * rows[k, k]
        for below in range(k + 1, len(rows)):
            share = rows[below, k] / rows[k, k]
            for column in range(k + 1, len(rows)):
                rows[below, column] = rows[below, column] - share * rows[k, column]
    return product


@pytest.mark.parametrize("extent", [4, 16, 24])
def test_a_determinant_costs_an_elimination(extent: int) -> None:
    inputs: list[Given] = [feeds([(extent, extent)])["in0"] + extent * np.eye(extent, dtype=np.float32)]
    result, counted = operations(lambda: _determinant(reals(np.asarray(inputs[0]))))
    np.testing.assert_allclose(result.value, expected("Det", inputs)[0], rtol=1e-3)
    assert abs(counted - flops("Det", inputs, [()])) <= extent**2


def _between(image: Objects, y: float, x: float) -> Real:
    """A multiply-add for each neighbour; how near they are is worked out once for all channels."""
    total = Real(0)
    top, left = min(int(y), image.shape[0] - 2), min(int(x), image.shape[1] - 2)
    for row, column in itertools.product((0, 1), repeat=2):
        near = (1 - abs(y - top - row)) * (1 - abs(x - left - column))
        total = total + image[top + row, left + column] * Real(near)
    return total


@given(channels=SMALL, height=st.integers(2, 5), width=st.integers(2, 5), bigger=st.integers(2, 3))
@settings(max_examples=10)
def test_linear_resizing_costs_four_neighbours(channels: int, height: int, width: int, bigger: int) -> None:
    sizes = np.asarray([1, channels, height * bigger, width * bigger])
    inputs: list[Given] = [(1, channels, height, width), None, None, sizes]
    options: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    (wanted,) = expected("Resize", inputs, **options)
    image = reals(feeds(inputs)["in0"][0])
    rows = np.linspace(0, height - 1, height * bigger)
    columns = np.linspace(0, width - 1, width * bigger)
    result, counted = operations(
        lambda: [[[_between(plane, y, x) for x in columns] for y in rows] for plane in image]
    )
    np.testing.assert_allclose(values(result), wanted[0], rtol=1e-4)
    assert flops("Resize", inputs, [wanted], **options) == counted
    assert flops("Resize", inputs, [wanted], mode="nearest") == 0
    assert (
        flops("GridSample", [(1, channels, height, width), (1, 2, 3, 2)], [(1, channels, 2, 3)])
        == 48 * channels
    )


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin", "TopK", "Hardmax", "ReduceMax", "ReduceMin"])
@given(rows=SMALL, width=st.integers(1, 20))
@settings(max_examples=5)
def test_selections_cost_a_comparison_an_element(op: str, rows: int, width: int) -> None:
    def scan() -> None:
        for row in reals(np.ones((rows, width))):
            largest = Real(-math.inf)
            for number in row:
                largest = largest.larger(number)

    _, counted = operations(scan)
    assert flops(op, [(rows, width)], [(rows, 1)]) == counted
