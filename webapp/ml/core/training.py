"""Fitting and judging a model: Dataset + TrainingSpec → TrainedModel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Dataset, Matrix, Vector
from webapp.ml.core.estimators import CATALOGUE, DEFAULT_ESTIMATOR, resolve_params

FEWEST_ROWS_TO_SPLIT = 10
FEWEST_ROWS_TO_JUDGE = 2  # R² of a single row is undefined


@dataclass(frozen=True)
class TrainingSpec:
    """How to train: estimator and parameters, the share of rows held out, and the seed.

    ``refit`` fits the served model on all rows once the hold-out has judged it.
    """

    estimator: str = DEFAULT_ESTIMATOR
    params: Mapping[str, Any] = field(default_factory=dict)
    test_size: float = 0.2
    random_state: int = 42
    refit: bool = False


@dataclass(frozen=True)
class TrainedModel:
    """A fitted estimator and what is known of it; a metric that is undefined is None."""

    estimator: Any
    params: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    evaluated_on: str
    n_train: int
    n_test: int
    fit_seconds: float


def train(dataset: Dataset, spec: TrainingSpec, *, clock: Callable[[], float]) -> TrainedModel:
    """Fit an estimator, and judge it on rows that it has not seen.

    With fewer than 10 rows, or a hold-out of one, it fits and is judged on all rows, and
    ``evaluated_on`` says so. The split is that of scikit-learn's ``train_test_split``.
    ``clock`` tells seconds; the time of the fit that made the returned estimator is kept.

    Raises InvalidInput where the rows cannot be fitted as asked.
    """
    entry = CATALOGUE[spec.estimator]
    params = resolve_params(entry, spec.params)
    n_rows = len(dataset.y)
    n_test = math.ceil(spec.test_size * n_rows)
    if n_test == n_rows and n_rows >= FEWEST_ROWS_TO_SPLIT:
        raise InvalidInput({"test_size": [f"leaves none of {n_rows} rows to fit"]})
    held_out = n_rows >= FEWEST_ROWS_TO_SPLIT and n_test >= FEWEST_ROWS_TO_JUDGE
    fit_X, test_X, fit_y, test_y = (
        _split(dataset, n_test, spec.random_state)
        if held_out
        else (dataset.X, dataset.X, dataset.y, dataset.y)
    )

    unfitted = entry.build(**params)  # imports the library, which is no part of the fit's time
    started = clock()
    estimator = _fit(unfitted, fit_X, fit_y)
    fit_seconds = clock() - started
    metrics = measure_regression(test_y, _predict(estimator, test_X))
    if held_out and spec.refit:
        started = clock()
        estimator = _fit(entry.build(**params), dataset.X, dataset.y)
        fit_seconds = clock() - started
    return TrainedModel(
        estimator=estimator,
        params=params,
        metrics=metrics,
        evaluated_on="hold-out" if held_out else "training",
        n_train=len(fit_y),
        n_test=n_test if held_out else 0,
        fit_seconds=fit_seconds,
    )


def measure_regression(y: Vector, predicted: Vector) -> dict[str, float | None]:
    """Return mse, rmse, mae and R² of predictions; both vectors are (n_rows,)."""
    from sklearn import metrics

    if not np.isfinite(predicted).all():
        return dict.fromkeys(("mse", "rmse", "mae", "r2_score"))
    with np.errstate(over="ignore", invalid="ignore"):
        mse = float(metrics.mean_squared_error(y, predicted))
        measured = {
            "mse": mse,
            "rmse": math.sqrt(mse),
            "mae": float(metrics.mean_absolute_error(y, predicted)),
            "r2_score": float(metrics.r2_score(y, predicted)) if len(y) > 1 else math.nan,
        }
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


def _split(
    dataset: Dataset, n_test: int, random_state: int
) -> tuple[Matrix, Matrix, Vector, Vector]:
    from sklearn.model_selection import train_test_split

    parts = train_test_split(dataset.X, dataset.y, test_size=n_test, random_state=random_state)
    return tuple(parts)


def _predict(estimator: Any, X: Matrix) -> Vector:
    # Held-out rows can overflow where the fitted ones did not: their metrics are undefined.
    with np.errstate(over="ignore", invalid="ignore"):
        predictions: Vector = estimator.predict(X)
    return predictions


def _fit(estimator: Any, X: Matrix, y: Vector) -> Any:
    # Finite rows can still overflow on the way (1e308 squared); scikit-learn then raises, or
    # returns what is no number. Both are the data's fault, and the client must hear of it.
    beyond_range = InvalidInput({"X": ["holds values too large or too small to fit"]})
    try:
        with np.errstate(all="ignore"):
            estimator.fit(X, y)
            fitted = estimator.predict(X[:1])
    except (ValueError, np.linalg.LinAlgError):
        raise beyond_range from None
    if not np.isfinite(fitted).all():
        raise beyond_range
    return estimator
