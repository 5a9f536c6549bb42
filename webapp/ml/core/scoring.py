"""From a fitted estimator to the fastest scorer that gives its very numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Vector


class Scorer(Protocol):
    """Anything that predicts: X (n_rows, n_features) → (n_rows,)."""

    def predict(self, X: Matrix) -> Vector:
        """Return one prediction per row."""


@dataclass(frozen=True)
class LinearScorer:
    """``X @ coefficients + intercept``, which is all that a linear model's predict computes."""

    coefficients: Vector
    intercept: float

    def predict(self, X: Matrix) -> Vector:
        """Return one prediction per row; X: (n_rows, n_features)."""
        predictions: Vector = X @ self.coefficients
        predictions += self.intercept
        return predictions


def compile_scorer(estimator: Any) -> Scorer:
    """Return a scorer for a fitted estimator; one without a faster form scores for itself."""
    from sklearn.linear_model import LinearRegression

    if type(estimator) is LinearRegression:
        return LinearScorer(
            np.ascontiguousarray(estimator.coef_, dtype=np.float64), float(estimator.intercept_)
        )
    scorer: Scorer = estimator
    return scorer


def score(scorer: Scorer, X: Matrix) -> Vector:
    """Return finite predictions for X: (n_rows, n_features) → (n_rows,).

    Raises InvalidInput, by row, where a prediction is beyond the range of float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        predictions = scorer.predict(X)
    finite = np.isfinite(predictions)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InvalidInput({str(row): ["gives a prediction beyond the range of float64"]})
    return predictions
