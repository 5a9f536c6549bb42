"""From a fitted estimator to the fastest scorer that gives the same predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.special import expit

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Vector
from webapp.ml.core.estimators import is_classifier, split_pipeline
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


Scorer: TypeAlias = Callable[[Matrix], Scores]
"""Returns the scores of rows: (n_rows, n_features)."""


@dataclass(frozen=True)
class EstimatorScorer:
    """The estimator's own predict, and predict_proba where it is a classifier."""

    estimator: Any

    def __call__(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        # A target that was fitted as a column is predicted as one: (n_rows, 1).
        values = np.reshape(self.estimator.predict(X), len(X))
        if is_classifier(self.estimator):
            return Scores(values, self.estimator.predict_proba(X))
        return Scores(values)


@dataclass(frozen=True)
class LinearScorer:
    """A linear regression. coefficients: (n_features,)."""

    coefficients: Vector
    intercept: float

    def __call__(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        predictions: Vector = X @ self.coefficients
        predictions += self.intercept
        return Scores(predictions)


@dataclass(frozen=True)
class LogisticScorer:
    """A logistic regression: the softmax, or of two classes the logistic, of linear functions.

    coefficients: (n_features, n_functions); intercepts: (n_functions,); classes: (n_classes,).
    """

    coefficients: Matrix
    intercepts: Vector
    classes: Any

    def __call__(self, X: Matrix) -> Scores:
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
    without the threads that its own predict would start. classes: (n_classes,), None for a
    regression.
    """

    forest: Any
    trees: FlatTrees | None
    classes: Any

    def __call__(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        with np.errstate(over="ignore"):
            single = np.ascontiguousarray(X, dtype=np.float32)
        if not np.isfinite(single).all():
            # Its own predict knows which way missing values go, and refuses infinite ones.
            return EstimatorScorer(self.forest)(X)
        members = self.forest.estimators_
        if self.trees is not None and len(X) <= FEW_FOREST_ROWS:
            sums = sum_in_order(self.trees.find_values(single))
        else:
            sums = np.zeros((len(X), members[0].tree_.max_n_classes))
            for member in members:
                sums += member.tree_.predict(single).reshape(sums.shape)
        sums /= len(members)
        if self.classes is None:
            return Scores(sums[:, 0])
        return Scores(self.classes.take(sums.argmax(axis=1)), sums)


@dataclass(frozen=True)
class BoostingScorer:
    """Gradient-boosted trees: a baseline and the sum of all trees, through the link of the loss.

    A few rows walk through all trees at once; many, and missing values, are left to the
    estimator. classes: (n_classes,), None for a regression.
    """

    estimator: Any
    trees: FlatTrees
    classes: Any

    def __call__(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        loss = self.estimator._loss
        walks = len(X) <= FEW_BOOSTING_ROWS and not np.isnan(X).any()
        raw = self._sum_trees(X) if walks else self.estimator._raw_predict(X)
        if self.classes is None:
            return Scores(loss.link.inverse(raw.ravel()))
        code = (raw[:, 0] > 0).astype(np.intp) if raw.shape[1] == 1 else raw.argmax(axis=1)
        return Scores(self.classes.take(code), loss.predict_proba(raw))

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

    def __call__(self, X: Matrix) -> Scores:
        """Return the scores of X: (n_rows, n_features)."""
        scaled = X - self.mean
        scaled /= self.scale
        if np.isinf(scaled).any():
            raise ValueError("standardisation overflows")
        return self.scorer(scaled)


@dataclass(frozen=True)
class LinearModel:
    """The linear functions of a fitted model, in units of the features as they came.

    coefficients: (n_functions, n_features); intercept: (n_functions,). A regression has one
    function, and so has a classifier of two classes, for the second of them.
    """

    coefficients: Matrix
    intercept: Vector


def find_linear_model(estimator: Any) -> LinearModel | None:
    """Return the linear functions of a fitted model; None where it has none.

    Standardisation before it is folded in: w·(x − m)/s + b = (w/s)·x + (b − m·(w/s)).
    """
    scaler, final = split_pipeline(estimator)
    if not type(final).__module__.startswith("sklearn.linear_model."):
        return None
    coefficients = np.atleast_2d(np.array(final.coef_, dtype=np.float64))
    intercept = np.ravel(np.array(final.intercept_, dtype=np.float64))
    if scaler is not None:
        mean, scale = _read_scaling(scaler)
        coefficients = coefficients / scale
        intercept = intercept - coefficients @ mean
    # Without an intercept, one 0.0 stands for those of all classes.
    return LinearModel(coefficients, np.broadcast_to(intercept, len(coefficients)))


def _read_scaling(scaler: Any) -> tuple[Vector, Vector]:
    """Return mean and scale of a fitted StandardScaler, (n_features,) each.

    ``mean_`` is there without ``with_mean``, too, and ``scale_`` is None without ``with_std``.
    """
    n_features = scaler.n_features_in_
    mean = scaler.mean_ if scaler.with_mean else np.zeros(n_features)
    scale = scaler.scale_ if scaler.with_std else np.ones(n_features)
    return mean, scale


def compile_scorer(estimator: Any) -> Scorer:
    """Return a scorer for a fitted estimator; one without a faster form scores for itself.

    Nothing is checked here: see ``probe.make_scorer`` for models that come from elsewhere.
    """
    scaler, final = split_pipeline(estimator)
    compiled = _compile_final(final)
    if compiled is None:
        return EstimatorScorer(estimator)
    return compiled if scaler is None else ScaledScorer(*_read_scaling(scaler), compiled)


def _compile_final(final: Any) -> Scorer | None:
    kind = type(final).__name__
    classes = final.classes_ if is_classifier(final) else None
    if kind in _LINEAR_REGRESSORS:
        # A target that was fitted as a column has them in arrays of one row.
        return LinearScorer(np.ravel(final.coef_), float(np.reshape(final.intercept_, ())))
    if kind == "LogisticRegression":
        return LogisticScorer(final.coef_.T, final.intercept_, classes)
    if kind.startswith("RandomForest"):
        trees = [_read_tree(member.tree_) for member in final.estimators_]
        return ForestScorer(final, flatten_trees(trees), classes)
    if kind.startswith("HistGradientBoosting"):
        nodes = [predictor.nodes for iteration in final._predictors for predictor in iteration]
        if any(part["is_categorical"].any() for part in nodes):
            return None  # their splits are no comparisons
        flat = flatten_trees([_read_nodes(part) for part in nodes])
        return None if flat is None else BoostingScorer(final, flat, classes)
    return None


def _read_tree(tree: Any) -> Tree:
    left, right = tree.children_left, tree.children_right
    return Tree(left, right, tree.feature, tree.threshold, left == -1, tree.value[:, 0, :])


def _read_nodes(nodes: Any) -> Tree:
    left, right, feature = nodes["left"], nodes["right"], nodes["feature_idx"]
    values = nodes["value"][:, np.newaxis]
    return Tree(left, right, feature, nodes["num_threshold"], nodes["is_leaf"], values)


def score(scorer: Scorer, X: Matrix) -> Scores:
    """Return the scores of X: (n_rows, n_features), all numbers finite.

    Raises InvalidInput, by row, where a prediction is beyond the range of float64.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            scores = scorer(X)
    except ValueError:
        # Trees compare in float32, and standardisation may overflow: scikit-learn refuses both.
        raise InvalidInput(["has values beyond the range that the estimator takes"]) from None
    numbers = scores.values if scores.probabilities is None else scores.probabilities[:, 0]
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InvalidInput({str(row): ["gives a prediction beyond the range of float64"]})
    return scores
