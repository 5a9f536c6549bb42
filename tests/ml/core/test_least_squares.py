"""Least squares held against scikit-learn, and its intervals against statsmodels."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from webapp.ml.core.least_squares import (
    IntervalBasis,
    Intervals,
    compute_intervals,
    fit_least_squares,
    make_interval_basis,
)

RCOND = LinearRegression().tol


def make_rows(
    *, n_rows: int = 1000, n_features: int = 5, condition: float = 1.0, offset: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return X, whose singular values fall evenly to 1/condition, and a noisy linear y."""
    random = np.random.RandomState(0)
    X = random.randn(n_rows, n_features)
    u, _, v = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    X = u * np.geomspace(1, 1 / condition, len(v)) @ v * np.sqrt(n_rows) + offset
    y = X @ random.randn(n_features) + random.randn(n_rows) + 3
    return X, y


def make_noise(n_rows: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(2)
    X = random.randn(n_rows, n_features)
    return X, X.sum(axis=1) + random.randn(n_rows)


def replace_third(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows whose third feature tells nothing."""
    X, y = make_rows()
    thirds = {"dependent": X[:, 0] - 2 * X[:, 1], "constant": 7.0, "far smaller": X[:, 2] / 1e9}
    X[:, 2] = thirds[kind]
    return X, y


CONDITIONS = [(1, 0), (1, 1e6), (1e3, 0), (1e3, 1e3), (9e3, 10), (1e6, 0), (1e6, 10), (1e10, 0)]
SHAPES = [(1, 1), (2, 1), (3, 3), (12, 11), (12, 12), (20, 50), (300, 300), (100_000, 3)]
KINDS = {
    **{pair: partial(make_rows, condition=pair[0], offset=pair[1]) for pair in CONDITIONS},
    **{shape: partial(make_noise, *shape) for shape in (*SHAPES, (9_000, 40))},
    **{kind: partial(replace_third, kind) for kind in ("dependent", "constant", "far smaller")},
}


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("make", KINDS.values(), ids=map(str, KINDS))
def test_it_equals_scikit_learn(make: Any, fit_intercept: bool) -> None:
    X, y = make()
    theirs = LinearRegression(fit_intercept=fit_intercept).fit(X, y)
    mask = np.arange(2 * len(X)) % 2 == 0  # leaves out every second row, which differs

    ours = fit_least_squares(
        *(np.repeat(X, 2, axis=0) * (1 + ~mask[:, np.newaxis]), np.repeat(y, 2)),
        mask=mask,
        fit_intercept=fit_intercept,
        rcond=RCOND,
    )

    expected, singular = theirs.predict(X), theirs.singular_
    largest = np.abs(expected).max()
    found = X @ ours.coefficients + ours.intercept
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9 * largest)
    assert (ours.rank, ours.n_rows) == (theirs.rank_, len(X))
    found = ours.singular[: len(singular)]
    np.testing.assert_allclose(found, singular, atol=1e-12 * singular.max())
    squares = ((y - expected) ** 2).sum()
    assert ours.residual_sum == pytest.approx(squares, rel=1e-9, abs=1e-18 * largest**2)


# Intervals

X, Y = load_diabetes(return_X_y=True)


def make_basis(
    X: np.ndarray, y: np.ndarray, *, fit_intercept: bool = True, rcond: float = 1e-6
) -> IntervalBasis | None:
    fit = fit_least_squares(X, y, fit_intercept=fit_intercept, rcond=rcond)
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
    basis = make_basis(rows, y, rcond=1e-16)

    found = compute_intervals(basis, rows, exact.fittedvalues, level=0.95)

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
