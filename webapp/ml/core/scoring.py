"""From a fitted estimator to the fastest scorer that gives its very numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Vector
from webapp.ml.core.estimators import split_pipeline

# Their predict is X @ coef_ + intercept_ and nothing else.
_LINEAR_REGRESSORS = frozenset({"LinearRegression", "Ridge", "Lasso", "ElasticNet"})


@dataclass(frozen=True)
class Scores:
    """Predictions (n_rows,): numbers, or labels with the probability of each class.

    probabilities: (n_rows, n_classes), in the order of the version's classes.
    """

    values: Any
    probabilities: Matrix | None = None


class Scorer(Protocol):
    """Anything that scores rows."""

    def score(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""


@dataclass(frozen=True)
class LinearScorer:
    """``X @ coefficients + intercept``, which is all that a linear model's predict computes."""

    coefficients: Vector
    intercept: float

    def score(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        predictions: Vector = X @ self.coefficients
        predictions += self.intercept
        return Scores(predictions)


@dataclass(frozen=True)
class EstimatorScorer:
    """A regressor that scores for itself."""

    estimator: Any

    def score(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        return Scores(self.estimator.predict(X))


@dataclass(frozen=True)
class ClassifierScorer:
    """A classifier that scores for itself."""

    estimator: Any

    def score(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        return Scores(self.estimator.predict(X), self.estimator.predict_proba(X))


@dataclass(frozen=True)
class LinearModel:
    """The linear function of a fitted model, in units of the features as they came.

    coefficients: (n_features,), or (n_classes, n_features) with intercept (n_classes,).
    """

    coefficients: Matrix | Vector
    intercept: Vector | float


def find_linear_model(estimator: Any) -> LinearModel | None:
    """Return the linear function of a fitted model; None where it has none.

    Standardisation before it is folded in: w·(x − m)/s + b = (w/s)·x + (b − m·(w/s)).
    """
    scaler, final = split_pipeline(estimator)
    if not hasattr(final, "coef_"):
        return None
    coefficients = np.array(final.coef_, dtype=np.float64)
    intercept = np.array(final.intercept_, dtype=np.float64)
    if scaler is not None:
        coefficients = coefficients / scaler.scale_
        intercept = intercept - coefficients @ scaler.mean_
    return LinearModel(coefficients, intercept if intercept.ndim else float(intercept))


def compile_scorer(estimator: Any) -> Scorer:
    """Return a scorer for a fitted estimator; one without a faster form scores for itself."""
    _, final = split_pipeline(estimator)
    if hasattr(final, "classes_"):
        return ClassifierScorer(estimator)
    linear = find_linear_model(estimator)
    if linear is None or type(final).__name__ not in _LINEAR_REGRESSORS:
        return EstimatorScorer(estimator)
    return LinearScorer(np.ascontiguousarray(linear.coefficients), float(linear.intercept))


def score(scorer: Scorer, X: Matrix) -> Scores:
    """Return the scores of X: (n_rows, n_features), all numbers finite.

    Raises InvalidInput, by row, where a prediction is beyond the range of float64.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            scores = scorer.score(X)
    except ValueError:
        # Trees compare in float32, and standardisation may overflow: scikit-learn refuses both.
        raise InvalidInput(["has values beyond the range that the estimator takes"]) from None
    numbers = scores.values if scores.probabilities is None else scores.probabilities[:, 0]
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InvalidInput({str(row): ["gives a prediction beyond the range of float64"]})
    return scores
