"""Facts about figures: units, intervals, provenance."""

import math

import pytest

from disaggc.errors import DeclarationError
from disaggc.targets import Confidence, Figure, weakest


def figure(
    value: float,
    unit: str,
    *,
    low: float | None = None,
    high: float | None = None,
    confidence: Confidence = Confidence.V,
) -> Figure:
    note = "by hand" if confidence is Confidence.I else ""
    return Figure(value, unit, "NV-VR-PAGE", "2026-08", confidence, low, high, note)


@pytest.mark.parametrize(
    ("unit", "si", "base"),
    [
        ("GB", 1e9, "B"),
        ("GiB", 2.0**30, "B"),
        ("TB/s", 1e12, "B/s"),
        ("Gb/s", 1.25e8, "B/s"),
        ("PFLOPS", 1e15, "FLOP/s"),
        ("TOPS", 1e12, "FLOP/s"),
        ("us", 1e-6, "s"),
        ("ns", 1e-9, "s"),
        ("kW", 1e3, "W"),
        ("USD/h", 1, "USD/h"),
        ("tokens/s", 1, "tokens/s"),
        ("tokens/s/MW", 1, "tokens/s/MW"),
        ("devices", 1, "devices"),
    ],
)
def test_a_unit_scales_to_its_base(unit: str, si: float, base: str) -> None:
    one = figure(1, unit)
    assert math.isclose(one.si, si)
    assert one.base == base


def test_a_bit_is_an_eighth_of_a_byte() -> None:
    assert figure(400, "Gb/s").si == figure(50, "GB/s").si


def test_an_interval_is_in_the_figures_own_unit() -> None:
    latency = figure(2.5, "us", low=2, high=5)
    assert latency.low_si == pytest.approx(2e-6)
    assert latency.high_si == pytest.approx(5e-6)


def test_without_an_interval_both_ends_are_the_value() -> None:
    assert figure(22, "TB/s").low_si == figure(22, "TB/s").high_si == 22e12


def test_an_unknown_unit_names_the_known_ones() -> None:
    with pytest.raises(DeclarationError, match=r"Unknown unit 'Gbyte'\. Known units: B, kB, MB, GB, TB"):
        figure(1, "Gbyte")


@pytest.mark.parametrize(("low", "high"), [(3.0, None), (None, 1.0), (-1.0, None)])
def test_an_interval_must_hold_the_value(low: float | None, high: float | None) -> None:
    with pytest.raises(DeclarationError, match="Expected 0 <= low <= value <= high"):
        figure(2, "us", low=low, high=high)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_figure_is_finite(value: float) -> None:
    with pytest.raises(DeclarationError, match="must be finite"):
        figure(value, "us")


def test_an_inferred_figure_says_how() -> None:
    with pytest.raises(DeclarationError, match=r"confidence 'I' needs a 'note'"):
        Figure(130, "kW", "inferred", "2026-11-23", Confidence.I)


def test_an_inferred_source_cannot_claim_a_vendors_word() -> None:
    with pytest.raises(DeclarationError, match="Source 'inferred' goes with confidence 'I', not 'V'"):
        Figure(130, "kW", "inferred", "2026-11-23", Confidence.V)


def test_confidence_is_ordered_from_measured_to_inferred() -> None:
    assert sorted(Confidence, reverse=True) == [
        Confidence.I,
        Confidence.P,
        Confidence.V2,
        Confidence.V,
        Confidence.M,
    ]
    assert all(confidence.meaning for confidence in Confidence)


def test_the_weakest_figure_gives_the_confidence() -> None:
    assert weakest([figure(1, "s"), figure(1, "s", confidence=Confidence.P)]) is Confidence.P
    assert weakest([]) is Confidence.V
