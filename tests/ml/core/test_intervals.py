"""Intervals of least squares, held against statsmodels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.datasets import load_diabetes

from webapp.ml.core.intervals import (
    IntervalBasis,
    Intervals,
    compute_intervals,
    make_interval_basis,
)
from webapp.ml.core.least_squares import fit_least_squares

X, Y = load_diabetes(return_X_y=True)


def make_basis(
    X: np.ndarray, y: np.ndarray, *, fit_intercept: bool = True
) -> IntervalBasis | None:
    fit = fit_least_squares(X, y, fit_intercept=fit_intercept, rcond=1e-16)
    return make_interval_basis(fit, fit_intercept=fit_intercept)


def assert_equals_statsmodels(found: Intervals, expected: object, rtol: float) -> None:
    for name, values in {
        "mean_ci_lower": found.confidence_lower,
        "mean_ci_upper": found.confidence_upper,
        "obs_ci_lower": found.prediction_lower,
        "obs_ci_upper": found.prediction_upper,
    }.items():
        np.testing.assert_allclose(values, expected[name], rtol=rtol)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_intervals_equal_those_of_statsmodels(level: float, fit_intercept: bool) -> None:
    design = sm.add_constant(X) if fit_intercept else X
    theirs = sm.OLS(Y, design).fit()
    basis = make_basis(X, Y, fit_intercept=fit_intercept)

    # As a version keeps it: through JSON, bit for bit.
    kept = IntervalBasis.from_json(basis.to_json())
    found = compute_intervals(kept, X, theirs.fittedvalues, level=level)

    assert np.array_equal(kept.root, basis.root)
    expected = theirs.get_prediction(design).summary_frame(alpha=1 - level)
    assert_equals_statsmodels(found, expected, rtol=1e-9)


def test_an_ill_conditioned_design_keeps_its_digits() -> None:
    random = np.random.RandomState(0)
    rows = random.randn(200, 3) * [1e6, 1.0, 1e-6] + [1e6, 0, 0]
    y = random.randn(200)
    scaled = sm.add_constant((rows - rows.mean(axis=0)) / rows.std(axis=0))
    exact = sm.OLS(y, scaled).fit()

    found = compute_intervals(make_basis(rows, y), rows, exact.fittedvalues, level=0.95)

    assert_equals_statsmodels(found, exact.get_prediction(scaled).summary_frame(), rtol=1e-7)


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(6.0).reshape(3, 2),  # no degree of freedom left
        np.column_stack([np.arange(9.0), 2 * np.arange(9.0)]),  # one feature twice the other
        np.ones((9, 1)),  # the intercept again
        np.random.RandomState(0).randn(300, 201),  # too many features to keep a basis for
    ],
)
def test_intervals_that_are_undefined_have_no_basis(rows: np.ndarray) -> None:
    assert make_basis(rows, np.arange(float(len(rows)))) is None


def test_a_fit_beyond_float64_has_no_basis() -> None:
    fit = fit_least_squares(X, Y, rcond=1e-16)

    assert make_interval_basis(replace(fit, residual_sum=np.inf), fit_intercept=True) is None
