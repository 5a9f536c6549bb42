"""Least squares without copies, held against scikit-learn's LinearRegression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from webapp.ml.core import least_squares
from webapp.ml.core.least_squares import LeastSquares, fit_least_squares

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


def predict(fit: LeastSquares, X: np.ndarray) -> np.ndarray:
    return X @ fit.coefficients + fit.intercept


def assert_equals_sklearn(X: np.ndarray, y: np.ndarray, *, fit_intercept: bool) -> None:
    """Fit both to some of the rows, and compare all that they tell."""
    mask = np.random.RandomState(1).rand(len(X)) < 0.8
    theirs = LinearRegression(fit_intercept=fit_intercept).fit(X[mask], y[mask])

    ours = fit_least_squares(X, y, mask=mask, fit_intercept=fit_intercept, rcond=RCOND)

    expected = theirs.predict(X)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(predict(ours, X), expected, rtol=1e-9, atol=1e-9 * largest)
    assert ours.rank == theirs.rank_
    singular = theirs.singular_
    np.testing.assert_allclose(
        ours.singular[: len(singular)], singular, atol=1e-12 * singular.max()
    )
    squares = ((y[mask] - theirs.predict(X[mask])) ** 2).sum()
    assert ours.residual_sum == pytest.approx(squares, rel=1e-9, abs=1e-20)
    assert ours.n_rows == mask.sum()
    np.testing.assert_allclose(ours.mean, X[mask].mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ours.std, X[mask].std(axis=0, ddof=1), rtol=1e-9)
    np.testing.assert_array_equal(ours.minimum, X[mask].min(axis=0))
    np.testing.assert_array_equal(ours.maximum, X[mask].max(axis=0))


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(
    ("condition", "offset"),
    [(1, 0), (1, 1e6), (1e3, 0), (1e3, 1e3), (9e3, 10), (1e6, 0), (1e6, 10), (1e10, 0)],
)
def test_it_equals_scikit_learn_well_and_ill_conditioned(
    condition: float, offset: float, fit_intercept: bool
) -> None:
    X, y = make_rows(condition=condition, offset=offset)

    assert_equals_sklearn(X, y, fit_intercept=fit_intercept)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (2, 1), (3, 3), (12, 11), (12, 12), (20, 50), (300, 300), (100_000, 3), (9_000, 40)],
)
def test_it_equals_scikit_learn_in_every_shape(
    shape: tuple[int, int], fit_intercept: bool
) -> None:
    random = np.random.RandomState(2)
    X = random.randn(*shape)
    y = X.sum(axis=1) + random.randn(len(X))
    theirs = LinearRegression(fit_intercept=fit_intercept).fit(X, y)

    ours = fit_least_squares(X, y, fit_intercept=fit_intercept, rcond=RCOND)

    np.testing.assert_allclose(predict(ours, X), theirs.predict(X), rtol=1e-8, atol=1e-9)
    assert ours.rank == theirs.rank_


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_features_that_depend_on_each_other_get_the_solution_of_least_norm(
    fit_intercept: bool,
) -> None:
    X, y = make_rows()
    X[:, -1] = 2 * X[:, 0] - X[:, 1]

    assert_equals_sklearn(X, y, fit_intercept=fit_intercept)


def test_a_constant_feature_changes_nothing() -> None:
    X, y = make_rows()
    X[:, 2] = 7.0
    theirs = LinearRegression().fit(X, y)

    ours = fit_least_squares(X, y, rcond=RCOND)

    np.testing.assert_allclose(predict(ours, X), theirs.predict(X), rtol=1e-9, atol=1e-9)
    assert ours.std[2] == 0


def test_a_feature_far_smaller_than_the_others_counts_as_in_scikit_learn() -> None:
    X, y = make_rows()
    X[:, 0] *= 1e-9

    assert_equals_sklearn(X, y, fit_intercept=True)


def test_an_exact_line_is_found_exactly() -> None:
    X, _ = make_rows(offset=100.0)
    y = X @ np.arange(1.0, 6.0) - 4

    fit = fit_least_squares(X, y, rcond=RCOND)

    np.testing.assert_allclose(fit.coefficients, np.arange(1.0, 6.0), rtol=1e-12)
    assert fit.intercept == pytest.approx(-4, abs=1e-9)
    assert fit.residual_sum < 1e-18


def test_well_conditioned_rows_take_the_quick_way_and_others_the_safe_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reflected: list[int] = []
    original = least_squares._factor_by_reflections

    def watch(rows: least_squares._Rows, *means: object) -> object:
        reflected.append(len(rows.X))
        return original(rows, *means)

    monkeypatch.setattr(least_squares, "_factor_by_reflections", watch)

    fit_least_squares(*make_rows(condition=1e3), rcond=RCOND)
    assert reflected == []
    fit_least_squares(*make_rows(condition=1e6), rcond=RCOND)
    assert reflected == [1000]


def test_rows_that_overflow_are_no_fit() -> None:
    X, y = make_rows()
    X[:2] = 1.7e308

    with np.errstate(all="ignore"), pytest.raises((ValueError, np.linalg.LinAlgError)):
        fit_least_squares(X, y, rcond=RCOND)
