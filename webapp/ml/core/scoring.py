"""From a fitted estimator to the fastest scorer that gives its very numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import expit

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Vector
from webapp.ml.core.estimators import split_pipeline
from webapp.ml.core.trees import FlatTrees, Tree, flatten_trees, sum_in_order

# Their predict is X @ coef_ + intercept_ and nothing else.
_LINEAR_REGRESSORS = frozenset({"LinearRegression", "Ridge", "Lasso", "ElasticNet"})

# Up to so many rows, walking through all trees at once is faster than tree by tree.
FEW_FOREST_ROWS = 12
FEW_BOOSTING_ROWS = 64


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
    """A classifier that scores for itself: its label is that of the highest probability."""

    estimator: Any

    def score(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        return Scores(self.estimator.predict(X), self.estimator.predict_proba(X))


@dataclass(frozen=True)
class LogisticScorer:
    """A logistic regression: the softmax, or of two classes the logistic, of linear functions.

    coefficients: (n_features, n_functions); intercepts: (n_functions,); classes: (n_classes,).
    """

    coefficients: Matrix
    intercepts: Vector
    classes: Any

    def score(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        decisions: Matrix = X @ self.coefficients
        decisions += self.intercepts
        if decisions.shape[1] == 1:
            labels = self.classes.take((decisions[:, 0] > 0).astype(np.intp))
            second = expit(decisions[:, 0])
            return Scores(labels, np.stack([1 - second, second], axis=1))
        labels = self.classes.take(decisions.argmax(axis=1))
        decisions -= decisions.max(axis=1, keepdims=True)
        np.exp(decisions, out=decisions)
        decisions /= decisions.sum(axis=1, keepdims=True)
        return Scores(labels, decisions)


@dataclass(frozen=True)
class ForestScorer:
    """A random forest: the mean of its trees, which compare in float32.

    A few rows walk through all trees at once; many go through scikit-learn's trees one by one,
    without the threads that its own predict would start.
    """

    forest: Any
    trees: FlatTrees | None

    def score(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        with np.errstate(over="ignore"):
            single = np.ascontiguousarray(X, dtype=np.float32)
        if not np.isfinite(single).all():
            raise ValueError("beyond the range of float32")
        if self.trees is not None and len(X) <= FEW_FOREST_ROWS:
            sums = sum_in_order(self.trees.find_values(single))
        else:
            sums = np.zeros((len(X), self.forest.estimators_[0].tree_.max_n_classes))
            for member in self.forest.estimators_:
                sums += member.tree_.predict(single).reshape(sums.shape)
        sums /= len(self.forest.estimators_)
        if not hasattr(self.forest, "classes_"):
            return Scores(sums[:, 0])
        return Scores(self.forest.classes_.take(sums.argmax(axis=1)), sums)


@dataclass(frozen=True)
class BoostingScorer:
    """Gradient-boosted trees: a baseline and the sum of all trees, through the link of the loss.

    A few rows walk through all trees at once; many are left to the estimator.
    """

    estimator: Any
    trees: FlatTrees

    def score(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        estimator = self.estimator
        raw = self._sum_trees(X) if len(X) <= FEW_BOOSTING_ROWS else estimator._raw_predict(X)
        if not hasattr(estimator, "classes_"):
            return Scores(estimator._loss.link.inverse(raw.ravel()))
        code = (raw[:, 0] > 0).astype(np.intp) if raw.shape[1] == 1 else raw.argmax(axis=1)
        return Scores(estimator.classes_.take(code), estimator._loss.predict_proba(raw))

    def _sum_trees(self, X: Matrix) -> Matrix:
        baseline = self.estimator._baseline_prediction
        n_outputs = baseline.shape[1]
        values = self.trees.find_values(X).reshape(len(X), -1, n_outputs)
        first = np.broadcast_to(baseline, (len(X), 1, n_outputs))
        return sum_in_order(np.concatenate([first, values], axis=1))


@dataclass(frozen=True)
class ScaledScorer:
    """Another scorer behind a standardisation. mean, scale: (n_features,)."""

    mean: Vector
    scale: Vector
    scorer: Scorer

    def score(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        scaled = X - self.mean
        scaled /= self.scale
        if not np.isfinite(scaled).all():
            raise ValueError("standardisation overflows")
        return self.scorer.score(scaled)


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


def _describe_tree(member: Any) -> Tree:
    tree = member.tree_
    return Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        is_leaf=tree.children_left == -1,
        values=tree.value[:, 0, :],
    )


def _describe_predictor(predictor: Any) -> Tree:
    nodes = predictor.nodes
    return Tree(
        left=nodes["left"],
        right=nodes["right"],
        feature=nodes["feature_idx"],
        threshold=nodes["num_threshold"],
        is_leaf=nodes["is_leaf"],
        values=nodes["value"][:, np.newaxis],
    )


def compile_scorer(estimator: Any) -> Scorer:
    """Return a scorer for a fitted estimator; one without a faster form scores for itself."""
    scaler, final = split_pipeline(estimator)
    kind = type(final).__name__
    if kind in _LINEAR_REGRESSORS:
        linear = find_linear_model(estimator)
        if linear is not None:
            return LinearScorer(np.ascontiguousarray(linear.coefficients), float(linear.intercept))
    compiled: Scorer | None = None
    if kind == "LogisticRegression":
        compiled = LogisticScorer(final.coef_.T, final.intercept_, final.classes_)
    elif kind in ("RandomForestRegressor", "RandomForestClassifier"):
        compiled = ForestScorer(
            final, flatten_trees([_describe_tree(e) for e in final.estimators_])
        )
    elif kind in ("HistGradientBoostingRegressor", "HistGradientBoostingClassifier"):
        predictors = [_describe_predictor(p) for row in final._predictors for p in row]
        flat = flatten_trees(predictors)
        compiled = None if flat is None else BoostingScorer(final, flat)
    if compiled is None:
        is_classifier = hasattr(final, "classes_")
        return ClassifierScorer(estimator) if is_classifier else EstimatorScorer(estimator)
    return compiled if scaler is None else ScaledScorer(scaler.mean_, scaler.scale_, compiled)


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
    if np.count_nonzero(finite) < len(finite):  # quicker than all() for a row
        row = int(np.argmin(finite))
        raise InvalidInput({str(row): ["gives a prediction beyond the range of float64"]})
    return scores
