"""The small drawing functions: escaping, scales, ticks, labels that cover nothing."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disaggc.report.html.fleet import MOST_CELLS, cells, device_cells, memory_bar
from disaggc.report.html.labels import Box, place
from disaggc.report.html.scales import Scale, around, log_ticks, ticks
from disaggc.report.html.svg import element, picture, rect, text, text_width
from disaggc.report.html.views import MemoryPart

HOSTILE = "\"><script>alert('x')</script>&amp;<"


def test_text_and_attributes_are_escaped() -> None:
    drawn = picture(10, 10, HOSTILE, [text(0, 0, HOSTILE, HOSTILE), rect(0, 0, 1, 1, HOSTILE, HOSTILE)])
    parsed = ET.fromstring(str(drawn))  # noqa: S314 - made here
    assert parsed.get("aria-label") == HOSTILE
    assert parsed[0].text == HOSTILE
    assert parsed[1][0].text == HOSTILE
    assert "<script" not in drawn


def test_an_attribute_that_is_none_is_left_out_and_numbers_are_short() -> None:
    assert element("g", stroke_width=1.0, x=2.346, class_=None) == '<g stroke-width="1" x="2.35"></g>'


@given(st.floats(1e-6, 1e12), st.floats(1e-3, 1e6))
def test_ticks_are_round_few_and_inside(low: float, share: float) -> None:
    high = low * (1 + share)
    found = ticks(low, high)
    width = high - low
    assert 1 <= len(found) <= 6
    assert all(low - width * 1e-6 <= value <= high + width * 1e-6 for value in found)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert all(step == pytest.approx(steps[0], rel=1e-6) for step in steps)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (1, 1000, [1, 10, 100, 1000]),
        (3, 40, [5, 10, 20]),
        (1, 1e12, [1, 100, 1e4, 1e6, 1e8, 1e10, 1e12]),
        (1400, 2100, [1400, 1600, 1800, 2000]),
    ],
)
def test_logarithmic_ticks_are_powers_or_what_is_round(low: float, high: float, found: list[float]) -> None:
    assert log_ticks(low, high, 7) == pytest.approx(found)


@given(st.floats(1e-3, 1e6), st.floats(1.01, 1e6), st.booleans())
def test_a_scale_keeps_order_and_ends(low: float, factor: float, log: bool) -> None:
    scale = Scale(low, low * factor, 100.0, 20.0, log)
    assert scale.at(low) == pytest.approx(100.0)
    assert scale.at(low * factor) == pytest.approx(20.0)
    assert 20.0 <= scale.at(low * math.sqrt(factor)) <= 100.0
    assert scale.at(low / 10) == 100.0


def test_an_axis_has_air_around_its_values() -> None:
    low, high = around([10.0, 1000.0], log=True)
    assert low < 10 < 1000 < high
    assert around([3.0, 4.0])[0] == 0.0


POINTS = st.lists(
    st.tuples(st.floats(0, 300), st.floats(0, 200), st.sampled_from(["qkv", "core attention", "head"])),
    max_size=12,
)


@given(POINTS)
def test_labels_cover_neither_each_other_nor_points_nor_the_edge(
    wanted: list[tuple[float, float, str]],
) -> None:
    field = Box(0, 0, 300, 200)
    labels = place(wanted, field)
    boxes = [Box(n.x, n.y - 10, n.x + text_width(n.words, 11), n.y + 3) for n in labels]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.meets(b)
    for box in boxes:
        assert box.inside(field)
        assert not any(box.meets(Box(x - 4, y - 4, x + 4, y + 4)) for x, y, _ in wanted)


@pytest.mark.parametrize(("devices", "available"), [(72, 72), (8, 256), (2304, 2304), (1, 2)])
def test_cells_stand_for_all_devices(devices: int, available: int) -> None:
    count, used, each = cells(devices, available)
    assert count <= MOST_CELLS
    assert (count - 1) * each < available <= count * each
    assert (used - 1) * each < devices <= used * each
    drawn = device_cells(devices, available, "chip")
    assert drawn.count("cell used") == used
    assert drawn.count("<rect") == count


def test_a_memory_bar_shows_each_part_in_proportion() -> None:
    parts = [MemoryPart("weights", 25.0), MemoryPart("cache", 50.0), MemoryPart("activations", 0.0)]
    root = ET.fromstring(str(memory_bar(parts, 100.0)))  # noqa: S314 - made here
    widths = {r.get("class"): float(r.get("width") or 0) for r in root}
    assert widths["mem weights"] == pytest.approx(widths["mem free"] / 4)
    assert widths["mem cache"] == pytest.approx(widths["mem free"] / 2)
    assert "mem activations" not in widths
