"""From a fitted estimator to the fastest scorer that gives the same predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from scipy.special import expit

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Texts, Vector
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

    @property
    def numbers(self) -> Any:
        """Return what was computed: the probabilities of a classifier, or the predictions."""
        return self.values if self.probabilities is None else self.probabilities


Scorer: TypeAlias = Callable[..., Scores]
"""Returns the scores of rows, (n_rows, n_features) all finite, or as ``encoding`` has them.

Where the signature has columns of text, those are the second argument."""


def compile_scorer(estimator: Any) -> Scorer:
    """Return a scorer for a fitted estimator; one without a faster form scores for itself.

    Nothing is checked here: ``validation.make_scorer`` does, for models that come from elsewhere.
    """
    scaler, final = split_pipeline(estimator)
    compiled = _compile_final(final)
    if compiled is None:
        return partial(score_by_estimator, estimator)
    return compiled if scaler is None else partial(_score_scaled, *_read_scaling(scaler), compiled)


def score(scorer: Scorer, X: Matrix, texts: Texts | None = None) -> Scores:
    """Return the scores of rows.

    Raises InvalidInput, by row, where a prediction is beyond the range of float64.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            scores = scorer(X) if texts is None else scorer(X, texts)
    except ValueError:
        # Trees compare in float32, and standardisation may overflow: scikit-learn refuses both.
        raise InvalidInput(["has values beyond the range that the estimator takes"]) from None
    numbers = scores.values if scores.probabilities is None else scores.probabilities[:, 0]
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InvalidInput({str(row): ["gives a prediction beyond the range of float64"]})
    return scores


def find_linear_functions(estimator: Any) -> tuple[Matrix, Vector] | None:
    """Return the coefficients and intercepts of a linear model; None for another.

    They are (n_functions, n_features) and (n_functions,), in units of the unscaled features. A
    regression has one function, and so has a classifier of two classes, for the second of them.
    """
    scaler, final = split_pipeline(estimator)
    if not type(final).__module__.startswith("sklearn.linear_model."):
        return None
    coefficients = np.atleast_2d(np.array(final.coef_, dtype=np.float64))
    intercepts = np.ravel(np.array(final.intercept_, dtype=np.float64))
    if scaler is not None:  # w·(x − m)/s + b = (w/s)·x + (b − m·(w/s))
        mean, scale = _read_scaling(scaler)
        coefficients = coefficients / scale
        intercepts = intercepts - coefficients @ mean
    # Without an intercept, one 0.0 stands for those of all classes.
    return coefficients, np.broadcast_to(intercepts, len(coefficients))


def _read_scaling(scaler: Any) -> tuple[Vector, Vector]:
    """Return mean and scale of a fitted StandardScaler, (n_features,) each.

    ``mean_`` is there without ``with_mean``, too, and ``scale_`` is None without ``with_std``.
    """
    n_features = scaler.n_features_in_
    mean = scaler.mean_ if scaler.with_mean else np.zeros(n_features)
    scale = scaler.scale_ if scaler.with_std else np.ones(n_features)
    return mean, scale


def _compile_final(final: Any) -> Scorer | None:
    kind = type(final).__name__
    classes = final.classes_ if is_classifier(final) else None
    if kind in _LINEAR_REGRESSORS:
        # A target that was fitted as a column has them in arrays of one row.
        intercept = float(np.reshape(final.intercept_, ()))
        return partial(score_linear, np.ravel(final.coef_), intercept)
    if kind == "LogisticRegression":
        return partial(_score_logistic, final.coef_.T, final.intercept_, classes)
    if kind.startswith("RandomForest"):
        trees = [_read_tree(member.tree_) for member in final.estimators_]
        return partial(_score_forest, final, flatten_trees(trees), classes)
    if kind.startswith("HistGradientBoosting"):
        trees = [_read_nodes(tree.nodes) for iteration in final._predictors for tree in iteration]
        flat = flatten_trees(trees)
        return None if flat is None else partial(_score_boosting, final, flat, classes)
    return None


def _read_tree(tree: Any) -> Tree:
    left, right = tree.children_left, tree.children_right
    return Tree(left, right, tree.feature, tree.threshold, left == -1, tree.value[:, 0, :])


def _read_nodes(nodes: Any) -> Tree:
    left, right, feature = nodes["left"], nodes["right"], nodes["feature_idx"]
    values = nodes["value"][:, np.newaxis]
    return Tree(left, right, feature, nodes["num_threshold"], nodes["is_leaf"], values)


# Scorers, once what they begin with is bound. X: (n_rows, n_features); classes: (n_classes,),
# None for a regression.


def score_by_estimator(estimator: Any, X: Matrix) -> Scores:
    """Return what the estimator's own predict gives, and predict_proba of a classifier."""
    # A target that was fitted as a column is predicted as one: (n_rows, 1).
    values = np.reshape(estimator.predict(X), len(X))
    probabilities = estimator.predict_proba(X) if is_classifier(estimator) else None
    return Scores(values, probabilities)


def score_linear(coefficients: Vector, intercept: float, X: Matrix) -> Scores:
    """Return the scores of a linear regression. coefficients: (n_features,)."""
    predictions: Vector = X @ coefficients
    predictions += intercept
    return Scores(predictions)


def _score_logistic(coefficients: Matrix, intercepts: Vector, classes: Any, X: Matrix) -> Scores:
    """Return the softmax, or of two classes the logistic, of linear functions.

    coefficients: (n_features, n_functions); intercepts: (n_functions,).
    """
    decisions: Matrix = X @ coefficients
    decisions += intercepts
    if decisions.shape[1] == 1:
        labels = classes.take((decisions[:, 0] > 0).astype(np.intp))
        second = expit(decisions[:, 0])
        return Scores(labels, np.stack([1 - second, second], axis=1))
    labels = classes.take(decisions.argmax(axis=1))
    decisions -= decisions.max(axis=1, keepdims=True)
    np.exp(decisions, out=decisions)
    decisions /= decisions.sum(axis=1, keepdims=True)
    return Scores(labels, decisions)


def _score_forest(forest: Any, trees: FlatTrees | None, classes: Any, X: Matrix) -> Scores:
    """Return the mean of a random forest's trees, which compare in float32.

    A few rows walk through all trees at once; many go through scikit-learn's trees one by one,
    without the threads that its own predict would start.
    """
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(X, dtype=np.float32)
    if not np.isfinite(single).all():
        raise ValueError("values are beyond float32")
    members = forest.estimators_
    if trees is not None and len(X) <= FEW_FOREST_ROWS:
        sums = sum_in_order(trees.find_values(single))
    else:
        sums = np.zeros((len(X), members[0].tree_.max_n_classes))
        for member in members:
            sums += member.tree_.predict(single).reshape(sums.shape)
    sums /= len(members)
    if classes is None:
        return Scores(sums[:, 0])
    return Scores(classes.take(sums.argmax(axis=1)), sums)


def _score_boosting(estimator: Any, trees: FlatTrees, classes: Any, X: Matrix) -> Scores:
    """Return a baseline plus the sum of all trees, through the link of the loss.

    A few rows walk through all trees at once; many are left to the estimator.
    """
    if len(X) <= FEW_BOOSTING_ROWS:
        baseline = estimator._baseline_prediction
        n_outputs = baseline.shape[1]
        values = trees.find_values(X).reshape(len(X), -1, n_outputs)
        first = np.broadcast_to(baseline, (len(X), 1, n_outputs))
        raw = sum_in_order(np.concatenate([first, values], axis=1))
    else:
        raw = estimator._raw_predict(X)
    if classes is None:
        return Scores(estimator._loss.link.inverse(raw.ravel()))
    code = (raw[:, 0] > 0).astype(np.intp) if raw.shape[1] == 1 else raw.argmax(axis=1)
    return Scores(classes.take(code), estimator._loss.predict_proba(raw))


def _score_scaled(mean: Vector, scale: Vector, scorer: Scorer, X: Matrix) -> Scores:
    """Return the scores of standardised rows. mean, scale: (n_features,)."""
    scaled = X - mean
    scaled /= scale
    if np.isinf(scaled).any():
        raise ValueError("standardisation overflows")
    return scorer(scaled)
