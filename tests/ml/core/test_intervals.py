"""Intervals of least squares, held against statsmodels and the textbook formula."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from webapp.ml.core.intervals import IntervalBasis, compute_intervals, make_interval_basis
from webapp.ml.core.least_squares import fit_least_squares


def make_basis(
    X: np.ndarray, y: np.ndarray, predictions: np.ndarray, *, fit_intercept: bool
) -> IntervalBasis | None:
    """Return the basis of a fit of X and y that predicts so."""
    fit = fit_least_squares(X, y, fit_intercept=fit_intercept, rcond=1e-16)
    residual_sum = float(((y - predictions) ** 2).sum())
    return make_interval_basis(fit, residual_sum=residual_sum, fit_intercept=fit_intercept)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_intervals_equal_those_of_statsmodels(level: float, fit_intercept: bool) -> None:
    X, y = load_diabetes(return_X_y=True)
    design = sm.add_constant(X) if fit_intercept else X
    model = LinearRegression(fit_intercept=fit_intercept).fit(X, y)
    predictions = model.predict(X)

    basis = make_basis(X, y, predictions, fit_intercept=fit_intercept)
    assert basis is not None
    found = compute_intervals(basis, X, predictions, level=level)

    expected = sm.OLS(y, design).fit().get_prediction(design).summary_frame(alpha=1 - level)
    for name, values in {
        "mean_ci_lower": found.confidence_lower,
        "mean_ci_upper": found.confidence_upper,
        "obs_ci_lower": found.prediction_lower,
        "obs_ci_upper": found.prediction_upper,
    }.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-9)


def test_intervals_equal_the_textbook_formula_of_a_line() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.1, 3.9, 6.2, 7.8, 10.1])
    slope, intercept = np.polyfit(x, y, 1)
    fitted = intercept + slope * x
    basis = make_basis(x[:, None], y, fitted, fit_intercept=True)
    at = 6.0

    found = compute_intervals(
        basis, np.array([[at]]), np.array([intercept + slope * at]), level=0.95
    )

    s = np.sqrt(((y - fitted) ** 2).sum() / 3)
    spread = 1 / 5 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    t = stats.t.ppf(0.975, 3)
    half = (found.confidence_upper - found.confidence_lower)[0] / 2
    assert half == pytest.approx(t * s * np.sqrt(spread))
    half = (found.prediction_upper - found.prediction_lower)[0] / 2
    assert half == pytest.approx(t * s * np.sqrt(1 + spread))


def test_a_basis_survives_json_bit_for_bit() -> None:
    X, y = load_diabetes(return_X_y=True)
    predictions = LinearRegression().fit(X, y).predict(X)
    basis = make_basis(X, y, predictions, fit_intercept=True)

    again = IntervalBasis.from_json(basis.to_json())

    assert np.array_equal(again.root, basis.root)
    assert again.residual_variance == basis.residual_variance


@pytest.mark.parametrize(
    "X",
    [
        np.arange(6.0).reshape(3, 2),  # no degree of freedom left
        np.column_stack([np.arange(9.0), 2 * np.arange(9.0)]),  # one feature twice the other
        np.ones((9, 1)),  # the intercept again
        np.random.RandomState(0).randn(300, 201),  # too many features to keep a basis for
    ],
)
def test_intervals_that_are_undefined_have_no_basis(X: np.ndarray) -> None:
    y = np.arange(float(len(X)))

    assert make_basis(X, y, np.zeros(len(X)), fit_intercept=True) is None


def test_an_ill_conditioned_design_keeps_its_digits() -> None:
    random = np.random.RandomState(0)
    X = random.randn(200, 3) * [1e6, 1.0, 1e-6] + [1e6, 0, 0]
    y = random.randn(200)
    scaled = sm.add_constant((X - X.mean(axis=0)) / X.std(axis=0))
    exact = sm.OLS(y, scaled).fit()
    basis = make_basis(X, y, exact.fittedvalues, fit_intercept=True)

    found = compute_intervals(basis, X, exact.fittedvalues, level=0.95)

    expected = exact.get_prediction(scaled).summary_frame()
    np.testing.assert_allclose(found.prediction_upper, expected["obs_ci_upper"], rtol=1e-7)
