"""Fitting and evaluating: scikit-learn's own numbers, and rules for when there are few rows."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Dataset, make_dataset
from webapp.ml.core.estimators import CATALOGUE
from webapp.ml.core.metrics import measure_regression
from webapp.ml.core.training import TrainedModel, TrainingSpec, train

X, Y = load_diabetes(return_X_y=True)
DIABETES = make_dataset(X, Y)


def make_line(n_rows: int) -> Dataset:
    """Return rows of ``y = 2 x + 1`` without noise."""
    x = np.arange(float(n_rows)).reshape(-1, 1)
    return make_dataset(x, 2 * x[:, 0] + 1)


def fit(dataset: Dataset, **spec: object) -> TrainedModel:
    return train(dataset, TrainingSpec(**spec), clock=time.perf_counter)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("test_size", "random_state"), [(0.2, 42), (0.5, 2**32 - 1)])
def test_the_numbers_are_those_of_scikit_learn_called_directly(
    test_size: float, random_state: int, fit_intercept: bool, positive: bool, scale: bool
) -> None:
    fit_X, test_X, fit_y, test_y = train_test_split(
        X, Y, test_size=test_size, random_state=random_state
    )
    expected = LinearRegression(fit_intercept=fit_intercept, positive=positive)
    expected = make_pipeline(StandardScaler(), expected) if scale else expected
    predicted = expected.fit(fit_X, fit_y).predict(test_X)
    params = {"fit_intercept": fit_intercept, "positive": positive}

    trained = fit(
        DIABETES, test_size=test_size, random_state=random_state, params=params, scale=scale
    )

    assert trained.estimator.predict(X) == pytest.approx(expected.predict(X), rel=1e-9)
    if not scale:
        assert vars(trained.estimator).keys() == vars(expected).keys()
    assert trained.metrics == {
        "mse": pytest.approx(mean_squared_error(test_y, predicted), rel=1e-9),
        "rmse": pytest.approx(math.sqrt(mean_squared_error(test_y, predicted)), rel=1e-9),
        "mae": pytest.approx(mean_absolute_error(test_y, predicted), rel=1e-9),
        "r2_score": pytest.approx(r2_score(test_y, predicted), rel=1e-9),
    }
    assert trained.params == params
    assert trained.profile["mean"] == pytest.approx(fit_X.mean(axis=0).tolist(), abs=1e-12)
    assert trained.profile["std"] == pytest.approx(fit_X.std(axis=0, ddof=1).tolist())
    assert trained.profile["min"] == fit_X.min(axis=0).tolist()
    assert trained.profile["max"] == fit_X.max(axis=0).tolist()
    sizes = (trained.evaluated_on, trained.n_train, trained.n_test)
    assert sizes == ("hold-out", len(fit_y), len(test_y))


def test_features_that_the_model_counts_as_dependent_have_no_intervals() -> None:
    rows = X.copy()
    rows[:, 0] *= 1e-9  # LinearRegression takes no notice of it beside the others

    assert fit(DIABETES).interval_basis is not None
    assert fit(make_dataset(rows, Y)).interval_basis is None
    assert fit(make_dataset(rows, Y), scale=True).interval_basis is not None


@pytest.mark.parametrize("scale", [False, True])
def test_refit_serves_a_model_of_all_rows_with_the_metrics_of_the_hold_out(scale: bool) -> None:
    expected = LinearRegression().fit(X, Y).predict(X)
    rows, y = X.copy(), Y.copy()

    trained = fit(DIABETES, refit=True, scale=scale)

    assert trained.estimator.predict(X) == pytest.approx(expected, rel=1e-9)
    assert trained.metrics == pytest.approx(fit(DIABETES).metrics, rel=1e-9)
    assert (trained.evaluated_on, trained.n_train, trained.n_test) == ("hold-out", 353, 89)
    assert np.array_equal(DIABETES.X, rows)  # training leaves the rows as they are
    assert np.array_equal(DIABETES.y, y)


@pytest.mark.parametrize(
    ("n_rows", "test_size", "n_test"),
    [
        *((1, 0.2, 0), (2, 0.2, 0), (9, 0.5, 0), (10, 0.0, 0), (10, 0.05, 0), (10, 0.1, 0)),
        *((10, 0.11, 2), (10, 0.2, 2), (11, 0.2, 3), (10, 0.9, 9)),
    ],
)
def test_with_few_rows_all_are_fitted_and_evaluated(
    n_rows: int, test_size: float, n_test: int
) -> None:
    trained = fit(make_line(n_rows), test_size=test_size)

    assert trained.evaluated_on == ("hold-out" if n_test else "training")
    assert (trained.n_train, trained.n_test) == (n_rows - n_test, n_test)


@pytest.mark.parametrize("test_size", [0.95, math.nextafter(1, 0)])
def test_a_hold_out_of_everything_is_refused(test_size: float) -> None:
    with pytest.raises(InvalidInput) as raised:
        fit(make_line(10), test_size=test_size)

    assert raised.value.faults == {"test_size": ["leaves none of 10 rows to fit"]}


def test_the_time_of_the_fit_that_serves_is_kept() -> None:
    def measure(**spec: Any) -> float:
        ticks = iter([1.0, 1.5, 10.0, 12.0])
        return train(make_line(10), TrainingSpec(**spec), clock=lambda: next(ticks)).fit_seconds

    assert (measure(), measure(refit=True)) == (0.5, 2.0)


def test_metrics_are_plain_floats_and_none_where_undefined() -> None:
    one_row = fit(make_line(1)).metrics
    beyond = measure_regression(np.array([1e200, -1e200]), np.array([0.0, 0.0]))
    ordinary = measure_regression(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))

    assert one_row == {"mse": 0.0, "rmse": 0.0, "mae": 0.0, "r2_score": None}
    assert beyond == {"mse": None, "rmse": None, "mae": 1e200, "r2_score": None}
    assert {type(value) for value in ordinary.values()} == {float}


@pytest.mark.parametrize(
    ("rows", "y"),
    [
        ([[1e308, 1], [1e308, 2], [3, 1e-320]], [1, 2, 1e300]),
        ([[1e308], [-1e308]], [1e308, -1e308]),
        ([[1.7e308], [1.7e308], [1.7e308]], [1, 2, 3]),
        ([[1], [2], [3]], [1.7e308, 1.7e308, 1.7e308]),
        ([[5e-324], [1e-323]], [1, 2]),
    ],
)
def test_numbers_too_large_or_too_small_are_fitted_or_refused(
    rows: list[list[float]], y: list[float]
) -> None:
    dataset = make_dataset(np.array(rows, dtype=float), np.array(y, dtype=float))

    try:
        trained = fit(dataset)
    except InvalidInput as error:
        (message,) = error.faults["X"]
        assert message.startswith(("cannot be fitted: ", "holds values too large or too small"))
    else:
        assert np.isfinite(trained.estimator.predict(dataset.X)).all()
        assert all(value is None or math.isfinite(value) for value in trained.metrics.values())


@pytest.mark.parametrize("refit", [False, True])
def test_a_hold_out_that_overflows_is_undefined_or_refused(refit: bool) -> None:
    dataset = make_line(10)
    dataset = make_dataset(dataset.X, 100 * dataset.y)
    # Row 8 is held out with the default seed: the model learns a slope of 200 without it.
    dataset.X[8] = 1e308

    with suppress(InvalidInput):
        assert fit(dataset, refit=refit).metrics["mse"] is None


def test_a_target_that_never_changes_is_fitted() -> None:
    dataset = make_dataset(np.random.RandomState(0).randn(20, 2), np.full(20, 7.0))

    trained = fit(dataset)

    assert trained.estimator.predict(dataset.X) == pytest.approx(np.full(20, 7.0))
    assert trained.metrics["mse"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("estimator", "params", "converged"),
    [
        ("linear_regression", {}, None),
        ("ridge", {}, None),
        ("ridge", {"solver": "sag", "max_iter": 1}, False),
        ("ridge", {"solver": "sag", "max_iter": 10_000, "tol": 0.1}, True),
        ("lasso", {"alpha": 1e-3, "max_iter": 2}, False),
        ("lasso", {"alpha": 1e-3}, True),
        ("logistic_regression", {"max_iter": 1}, False),
        ("logistic_regression", {"max_iter": 10_000}, True),
        ("random_forest", {"n_estimators": 2}, None),
        ("hist_gradient_boosting", {"max_iter": 100, "early_stopping": True}, None),
        ("hist_gradient_boosting_classifier", {"max_iter": 2}, None),
    ],
)
def test_only_a_solver_that_stopped_short_has_not_converged(
    estimator: str, params: dict[str, object], converged: bool | None
) -> None:
    y = Y if CATALOGUE[estimator].task == "regression" else (Y > 140).astype(np.int64)

    trained = fit(make_dataset(X, y), estimator=estimator, params=params)

    assert trained.converged is converged
