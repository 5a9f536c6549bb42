"""Fitting and evaluating: scikit-learn's own numbers, few rows, and solvers that stop short."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Dataset, make_dataset
from webapp.ml.core.estimators import CATALOGUE
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
@pytest.mark.parametrize("params", [{}, {"fit_intercept": False}, {"positive": True}], ids=str)
def test_a_linear_regression_is_that_of_scikit_learn(params: dict[str, Any], scale: bool) -> None:
    expected = LinearRegression(**params)
    expected = make_pipeline(StandardScaler(), expected) if scale else expected

    found = fit(DIABETES, params=params, scale=scale, test_size=0).estimator.predict(X)

    assert found == pytest.approx(expected.fit(X, Y).predict(X), rel=1e-9)


def test_features_that_the_model_counts_as_dependent_have_no_intervals() -> None:
    rows = X.copy()
    rows[:, 0] *= 1e-9  # LinearRegression takes no notice of it beside the others

    assert fit(DIABETES).interval_basis is not None
    assert fit(make_dataset(rows, Y)).interval_basis is None
    assert fit(make_dataset(rows, Y), scale=True).interval_basis is not None


@pytest.mark.parametrize(
    ("n_rows", "test_size", "n_test"),
    [
        *((1, 0.2, 0), (2, 0.2, 0), (9, 0.5, 0), (10, 0.0, 0), (10, 0.05, 0), (10, 0.1, 0)),
        *((10, 0.11, 2), (10, 0.2, 2), (11, 0.2, 3), (10, 0.9, 9)),
    ],
)
def test_few_rows_are_all_fitted_and_evaluated(n_rows: int, test_size: float, n_test: int) -> None:
    trained = fit(make_line(n_rows), test_size=test_size)

    assert trained.evaluated_on == ("hold-out" if n_test else "training")
    assert (trained.n_train, trained.n_test) == (n_rows - n_test, n_test)


@pytest.mark.parametrize("test_size", [0.95, math.nextafter(1, 0)])
def test_a_hold_out_of_everything_is_refused(test_size: float) -> None:
    with pytest.raises(InvalidInput) as raised:
        fit(make_line(10), test_size=test_size)

    assert raised.value.faults == {"test_size": ["leaves none of 10 rows to fit"]}


def test_a_single_row_has_all_metrics_but_r2() -> None:
    metrics = fit(make_line(1)).metrics

    baseline = metrics.pop("baseline")
    assert (metrics.pop("r2_score"), baseline.pop("r2_score")) == (None, None)
    assert set(metrics.values()) == set(baseline.values()) == {0.0}


@pytest.mark.parametrize(
    ("estimator", "params", "converged"),
    [
        ("linear_regression", {}, None),
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
def test_a_solver_that_stopped_short_has_not_converged(
    estimator: str, params: dict[str, object], converged: bool | None
) -> None:
    y = Y if CATALOGUE[estimator].task == "regression" else (Y > 140).astype(np.int64)

    trained = fit(make_dataset(X, y), estimator=estimator, params=params)

    assert trained.converged is converged
