"""Least squares, held against scikit-learn's LinearRegression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from webapp.ml.core import least_squares
from webapp.ml.core.least_squares import fit_least_squares

RCOND = LinearRegression().tol
INTERCEPT = pytest.mark.parametrize("fit_intercept", [True, False])


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


def assert_equals_sklearn(X: np.ndarray, y: np.ndarray, *, fit_intercept: bool) -> None:
    """Compare predictions, rank, singular values and residuals; leave rows out by a mask."""
    theirs = LinearRegression(fit_intercept=fit_intercept).fit(X, y)
    mask = np.arange(2 * len(X)) % 2 == 0

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


@INTERCEPT
@pytest.mark.parametrize(
    ("condition", "offset"),
    [(1, 0), (1, 1e6), (1e3, 0), (1e3, 1e3), (9e3, 10), (1e6, 0), (1e6, 10), (1e10, 0)],
)
def test_it_equals_scikit_learn_well_and_ill_conditioned(
    condition: float, offset: float, fit_intercept: bool
) -> None:
    X, y = make_rows(condition=condition, offset=offset)

    assert_equals_sklearn(X, y, fit_intercept=fit_intercept)


@INTERCEPT
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (2, 1), (3, 3), (12, 11), (12, 12), (20, 50), (300, 300), (100_000, 3), (9_000, 40)],
)
def test_it_equals_scikit_learn_in_every_shape(
    shape: tuple[int, int], fit_intercept: bool
) -> None:
    random = np.random.RandomState(2)
    X = random.randn(*shape)

    assert_equals_sklearn(X, X.sum(axis=1) + random.randn(len(X)), fit_intercept=fit_intercept)


@INTERCEPT
@pytest.mark.parametrize("kind", ["dependent", "constant", "far smaller"])
def test_features_that_tell_nothing_count_as_in_scikit_learn(
    kind: str, fit_intercept: bool
) -> None:
    X, y = make_rows()
    X[:, 2] = {"dependent": X[:, 0] - 2 * X[:, 1], "constant": 7.0, "far smaller": X[:, 2] / 1e9}[
        kind
    ]

    assert_equals_sklearn(X, y, fit_intercept=fit_intercept)


def test_an_exact_line_is_found_exactly() -> None:
    X, _ = make_rows(offset=100.0)

    fit = fit_least_squares(X, X @ np.arange(1.0, 6.0) - 4, rcond=RCOND)

    np.testing.assert_allclose(fit.coefficients, np.arange(1.0, 6.0), rtol=1e-12)
    assert fit.intercept == pytest.approx(-4, abs=1e-9)
    assert fit.residual_sum < 1e-18


def test_well_conditioned_rows_take_the_quick_way_and_others_the_safe_one() -> None:
    for condition, is_quick in ((1e3, True), (1e6, False)):
        X, _ = make_rows(condition=condition)
        Z = X - X.mean(axis=0)
        assert (least_squares._factor_by_cholesky(Z.T @ Z) is not None) == is_quick


def test_rows_that_overflow_are_no_fit() -> None:
    X, y = make_rows()
    X[:2] = 1.7e308

    with np.errstate(all="ignore"), pytest.raises((ValueError, np.linalg.LinAlgError)):
        fit_least_squares(X, y, rcond=RCOND)
