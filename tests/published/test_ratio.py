"""The A:F ratio by the formula of arXiv 2601.21351, against FastAFD's sweeps (fastafd_ratio_sweep.csv)."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import MEASURED, SWEEPS

from disaggc.cost.ratio import RatioModel, fit_ratio
from disaggc.errors import JobError

TABLE = {"16K": (1.342, 17.33), "32K": (0.584, 20.36), "64K": (0.350, 18.82), "128K": (0.218, 19.60)}
"""ms that one more tray adds, and ms of the fixed part, by an earlier fit to the same sweeps."""
REGRET = 0.02
"""Share of the best measured tokens/s that a choice may lose."""
SECONDS = st.floats(1e-4, 0.1)


def test_the_file_holds_four_sweeps_whose_steps_and_rates_agree() -> None:
    assert {name: len(sweep.rates) for name, sweep in MEASURED.items()} == {
        "16K": 13,
        "32K": 14,
        "64K": 14,
        "128K": 14,
    }
    lines = [line for line in SWEEPS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        if row["step_ms"]:
            a, b = int(row["a_trays"]), int(row["batch_per_a_gpu"])
            assert a * b / ((a + 1) * float(row["step_ms"]) / 1e3) == pytest.approx(
                float(row["tok_s_gpu"]), rel=1e-4
            )


@pytest.mark.parametrize("context", MEASURED)
def test_the_fitted_model_chooses_a_ratio_of_at_most_2_percent_regret(context: str) -> None:
    sweep = MEASURED[context]
    fit = fit_ratio(list(sweep.rates), sweep.steps_s)
    assert sweep.regret(fit.model.best_of(sweep.rates)) <= REGRET
    assert fit.mape <= 0.014
    slope, fixed = TABLE[context]
    assert 1e3 * fit.model.ffn_per_instance_s == pytest.approx(slope, rel=0.05)
    assert 1e3 * fit.model.ffn_fixed_s == pytest.approx(fixed, rel=0.05)


@pytest.mark.parametrize("context", MEASURED)
def test_four_measurements_choose_as_well(context: str) -> None:
    """What a deployment can afford to measure: the rest of the sweep is never seen by the fit."""
    sweep = MEASURED[context]
    seen = [4, 6, 10, 14]
    steps = dict(zip(sweep.rates, sweep.steps_s, strict=True))
    model = fit_ratio(seen, [steps[a] for a in seen]).model
    assert sweep.regret(model.best_of(sweep.rates)) <= REGRET


@pytest.mark.parametrize("context", MEASURED)
def test_leaving_any_measurement_out_changes_the_choice_by_no_more_than_its_regret(context: str) -> None:
    sweep = MEASURED[context]
    steps = dict(zip(sweep.rates, sweep.steps_s, strict=True))
    for left_out in steps:
        seen = [a for a in steps if a != left_out]
        model = fit_ratio(seen, [steps[a] for a in seen]).model
        assert sweep.regret(model.best_of(sweep.rates)) <= REGRET


def test_balance_is_not_the_goal() -> None:
    """At 128K attention and FFN are level at 3 trays; three times as many give 10 % more."""
    sweep = MEASURED["128K"]
    model = fit_ratio(list(sweep.rates), sweep.steps_s).model
    assert model.r_attention < 4
    assert model.r_best > 9
    assert sweep.rates[9] > 1.1 * sweep.rates[3]


@given(SECONDS, SECONDS, SECONDS, SECONDS)
def test_no_ratio_is_better_than_r_best(
    attention: float, fixed: float, per_instance: float, exchange: float
) -> None:
    model = RatioModel(attention, fixed, per_instance, exchange)
    for ratio in np.geomspace(1e-3, 1e3, 61):
        assert model.rate(float(ratio)) <= model.rate(model.r_best) * (1 + 1e-9)


def test_the_three_ratios_by_hand() -> None:
    """t_A 30, t_C 26, beta_F 10, alpha_F B 2.5 ms: 20/2.5, 16/2.5 and the root of 10/2.5."""
    model = RatioModel(0.030, 0.010, 0.0025, 0.026)
    assert (model.r_attention, model.r_exchange, model.r_peak) == pytest.approx((8, 6.4, 2))
    assert model.r_best == pytest.approx(8)
    assert model.step_s(8) == pytest.approx(0.030)
    assert model.step_s(12) == pytest.approx(0.040)
    assert model.rate(12) == pytest.approx(12 / (13 * 0.040))
    assert model.best_of(range(1, 17)) == 8


def test_an_ffn_that_costs_nothing_more_wants_as_much_attention_as_there_is() -> None:
    model = RatioModel(0.030, 0.010, 0.0)
    assert model.r_attention == model.r_peak == math.inf
    assert model.best_of(range(1, 9)) == 8
    assert RatioModel(0.005, 0.010, 0.0).r_attention == 0


@settings(max_examples=30)
@given(SECONDS, SECONDS, st.floats(1e-5, 0.01))
def test_a_fit_to_the_models_own_steps_is_that_model(
    attention: float, fixed: float, per_instance: float
) -> None:
    model = RatioModel(attention, fixed, per_instance)
    ratios = list(range(1, 17))
    fit = fit_ratio(ratios, [model.step_s(r) for r in ratios])
    assert fit.mape <= 1e-6
    assert [fit.model.step_s(r) for r in ratios] == pytest.approx([model.step_s(r) for r in ratios], rel=1e-5)


@pytest.mark.parametrize("context", MEASURED)
def test_no_model_nearby_or_on_a_grid_fits_better(context: str) -> None:
    sweep = MEASURED[context]
    ratios, steps = np.array(list(sweep.rates)), np.array(sweep.steps_s)

    def error(model: RatioModel) -> float:
        return float(np.sum((np.array([model.step_s(r) for r in ratios]) / steps - 1) ** 2))

    fit = fit_ratio(list(ratios), list(steps)).model
    least = error(fit)
    for factors in itertools.product((0.98, 0.999, 1, 1.001, 1.02), repeat=3):
        near = replace(
            fit,
            attention_s=fit.attention_s * factors[0],
            ffn_fixed_s=fit.ffn_fixed_s * factors[1],
            ffn_per_instance_s=fit.ffn_per_instance_s * factors[2],
        )
        assert error(near) >= least * (1 - 1e-9)
    for flat, fixed, slope in itertools.product(
        np.linspace(0.018, 0.03, 13), np.linspace(0.01, 0.03, 11), np.linspace(0, 0.002, 11)
    ):
        assert error(RatioModel(float(flat), float(fixed), float(slope))) >= least


def test_the_order_of_measurements_is_of_no_matter() -> None:
    sweep = MEASURED["16K"]
    ratios, steps = list(sweep.rates), sweep.steps_s
    assert fit_ratio(ratios[::-1], steps[::-1]) == fit_ratio(ratios, steps)


def test_measurements_that_say_too_little_are_refused() -> None:
    with pytest.raises(
        JobError, match=r"Steps at 2 different ratios leave the model open. Measure at least 3"
    ):
        fit_ratio([1, 2, 2], [0.01, 0.01, 0.01])
    with pytest.raises(JobError, match=r"A step of 0 s was measured; steps take more than 0 s"):
        fit_ratio([1, 2, 3], [0.01, 0.0, 0.01])
