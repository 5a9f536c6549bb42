"""From a fitted estimator to the fastest scorer that gives the same predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from scipy.special import expit

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Texts, Vector
from webapp.ml.core.estimators import (
    LINEAR_TYPES,
    has_probabilities,
    is_classifier,
    split_pipeline,
)
from webapp.ml.core.leaf_masks import LeafMasks
from webapp.ml.core.least_squares import Intervals
from webapp.ml.core.trees import FlatTrees, Tree, flatten_trees, sum_in_order

# Their predict is X @ coef_ + intercept_ and nothing else.
_LINEAR_REGRESSORS = frozenset(
    {"LinearRegression", "Ridge", "Lasso", "ElasticNet", "QuantileRegressor", "LinearSVR"}
)

# Up to so many rows, walking through all trees at once is faster than tree by tree.
FEW_FOREST_ROWS = 12
FEW_BOOSTING_ROWS = 64


@dataclass(frozen=True)
class Scores:
    """Predictions (n_rows,): numbers, or labels with the probability of each class.

    probabilities: (n_rows, n_classes), in the order of the version's classes; None for a
    regression, and for a classifier that gives labels only. Of several outputs, values are
    (n_rows, n_outputs). decision: (n_rows,), how far an outlier detector finds a row inside.
    """

    values: Any
    probabilities: Matrix | None = None
    are_labels: bool = False
    decision: Vector | None = None

    @property
    def numbers(self) -> Any:
        """Return what was computed: the probabilities of a classifier, or the predictions.

        Of labels without probabilities, there are none: (n_rows, 0).
        """
        if self.probabilities is not None:
            return self.probabilities
        if self.decision is not None:
            return self.decision
        return np.empty((len(self.values), 0)) if self.are_labels else self.values


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
    if scores.are_labels and scores.probabilities is None and scores.decision is None:
        return scores
    numbers = scores.numbers if scores.probabilities is None else scores.probabilities[:, 0]
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
        raise InvalidInput({str(row): ["gives a prediction beyond the range of float64"]})
    return scores


def name_columns(
    scores: Scores, classes: Sequence[Any] | None, intervals: Intervals | None
) -> dict[str, Any]:
    """Return the columns of an answer, (n_rows,) each: prediction, probabilities, bounds."""
    columns: dict[str, Any] = {}
    if scores.values.ndim == 2:
        columns |= {f"prediction:{place}": column for place, column in enumerate(scores.values.T)}
    else:
        columns["prediction"] = scores.values
    if scores.decision is not None:
        columns["score"] = scores.decision
    if scores.probabilities is not None:
        names = [f"probability:{label}" for label in classes or ()]
        # The rows of the transposed matrix are views; copies could take 400 MB.
        columns |= zip(names, scores.probabilities.T, strict=True)
    if intervals is not None:
        columns["confidence:lower"] = intervals.confidence_lower
        columns["confidence:upper"] = intervals.confidence_upper
        columns["prediction:lower"] = intervals.prediction_lower
        columns["prediction:upper"] = intervals.prediction_upper
    return columns


def find_linear_functions(estimator: Any) -> tuple[Matrix, Vector] | None:
    """Return the coefficients and intercepts of a linear model; None for another.

    They are (n_functions, n_features) and (n_functions,), in units of the unscaled features. A
    regression has one function, and so has a classifier of two classes, for the second of them.
    """
    scaler, final = split_pipeline(estimator)
    if not f"{type(final).__module__}.{type(final).__name__}".startswith(LINEAR_TYPES):
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
    if kind in _LINEAR_REGRESSORS or kind == "PoissonRegressor":
        # A target that was fitted as a column has them in arrays of one row.
        intercept = float(np.reshape(final.intercept_, ()))
        linear = partial(score_linear, np.ravel(final.coef_), intercept)
        return partial(_score_exponential, linear) if kind == "PoissonRegressor" else linear
    if kind in ("LogisticRegression", "LinearSVC"):
        to_scores = _score_logistic if kind == "LogisticRegression" else _score_border
        return partial(to_scores, final.coef_.T, final.intercept_, classes)
    if kind.startswith("DecisionTree"):
        return _compile_forest([final], classes)
    if kind.startswith(("RandomForest", "ExtraTrees")):
        return _compile_forest(final.estimators_, classes)
    if kind.startswith("GradientBoosting"):
        flat = flatten_trees([_read_tree(tree.tree_) for tree in final.estimators_.ravel()])
        first = final._raw_predict_init(np.zeros((1, final.n_features_in_), np.float32))
        return partial(_score_stages, final, first, flat, classes)
    if kind.startswith("HistGradientBoosting"):
        trees = [_read_nodes(tree.nodes) for iteration in final._predictors for tree in iteration]
        flat = flatten_trees(trees)
        return None if flat is None else partial(_score_boosting, final, flat, classes)
    return None


def _compile_forest(members: Sequence[Any], classes: Any) -> Scorer:
    trees = [member.tree_ for member in members]
    return partial(_score_forest, trees, flatten_trees(list(map(_read_tree, trees))), classes)


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
    """Return what the estimator's own predict gives, and predict_proba where it has one."""
    # A target that was fitted as a column is predicted as one: (n_rows, 1).
    values = np.reshape(estimator.predict(X), len(X))
    if not is_classifier(estimator):
        return Scores(values)
    probabilities = estimator.predict_proba(X) if has_probabilities(estimator) else None
    return Scores(values, probabilities, are_labels=True)


def score_linear(coefficients: Vector, intercept: float, X: Matrix) -> Scores:
    """Return the scores of a linear regression. coefficients: (n_features,)."""
    predictions: Vector = X @ coefficients
    predictions += intercept
    return Scores(predictions)


def _score_exponential(linear: Scorer, X: Matrix) -> Scores:
    """Return the exponential of what a linear regression scores."""
    return Scores(np.exp(linear(X).values))


def _score_border(coefficients: Matrix, intercepts: Vector, classes: Any, X: Matrix) -> Scores:
    """Return the label of the largest linear function, or of two classes by the sign of one.

    coefficients: (n_features, n_functions); intercepts: (n_functions,), or 0.0.
    """
    decisions: Matrix = X @ coefficients
    decisions += intercepts
    if not np.isfinite(decisions).all():
        raise ValueError("decisions are beyond float64")
    single = decisions.shape[1] == 1
    code = (decisions[:, 0] > 0).astype(np.intp) if single else decisions.argmax(axis=1)
    return Scores(classes.take(code), are_labels=True)


def _score_logistic(coefficients: Matrix, intercepts: Vector, classes: Any, X: Matrix) -> Scores:
    """Return the softmax, or of two classes the logistic, of linear functions.

    coefficients: (n_features, n_functions); intercepts: (n_functions,).
    """
    decisions: Matrix = X @ coefficients
    decisions += intercepts
    if decisions.shape[1] == 1:
        labels = classes.take((decisions[:, 0] > 0).astype(np.intp))
        second = expit(decisions[:, 0])
        return Scores(labels, np.stack([1 - second, second], axis=1), are_labels=True)
    labels = classes.take(decisions.argmax(axis=1))
    decisions -= decisions.max(axis=1, keepdims=True)
    np.exp(decisions, out=decisions)
    decisions /= decisions.sum(axis=1, keepdims=True)
    return Scores(labels, decisions, are_labels=True)


def _to_single(X: Matrix) -> Any:
    """Return rows in float32, as trees compare them; ValueError where they are beyond it."""
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(X, dtype=np.float32)
    if not np.isfinite(single).all():
        raise ValueError("values are beyond float32")
    return single


def _score_forest(
    members: Sequence[Any], trees: FlatTrees | None, classes: Any, X: Matrix
) -> Scores:
    """Return the mean of trees.

    A few rows walk through all trees at once; many go through scikit-learn's trees one by one,
    without the threads that its own predict would start.
    """
    single = _to_single(X)
    if trees is not None and len(X) <= FEW_FOREST_ROWS:
        sums = sum_in_order(trees.find_values(single))
    else:
        sums = np.zeros((len(X), members[0].max_n_classes))
        for member in members:
            sums += member.predict(single).reshape(sums.shape)
    sums /= len(members)
    if classes is None:
        return Scores(sums[:, 0])
    return Scores(classes.take(sums.argmax(axis=1)), sums, are_labels=True)


def _score_stages(
    estimator: Any, first: Matrix, trees: FlatTrees | None, classes: Any, X: Matrix
) -> Scores:
    """Return a constant plus the sum of all trees, times the learning rate.

    first: (1, n_outputs). A few rows walk through all trees at once, as in a forest.
    """
    single = _to_single(X)
    rate, n_outputs = estimator.learning_rate, first.shape[1]
    if trees is not None and len(X) <= FEW_FOREST_ROWS:
        values = rate * trees.find_values(single).reshape(len(X), -1, n_outputs)
        start = np.broadcast_to(first, (len(X), 1, n_outputs))
        raw = sum_in_order(np.concatenate([start, values], axis=1))
    else:
        raw = np.repeat(first, len(X), axis=0)
        for stage in estimator.estimators_:
            for output, member in enumerate(stage):
                raw[:, output] += rate * member.tree_.predict(single)[:, 0]
    if classes is None:
        return Scores(raw[:, 0])
    code = (raw[:, 0] >= 0).astype(np.intp) if n_outputs == 1 else raw.argmax(axis=1)
    return Scores(classes.take(code), estimator._loss.predict_proba(raw), are_labels=True)


def _score_boosting(model: Any, trees: FlatTrees, classes: Any, X: Matrix) -> Scores:
    """Return the scores of histogram boosting.

    A few rows walk through all trees at once; many are left to the model.
    """
    few = len(X) <= FEW_BOOSTING_ROWS
    raw = sum_trees(model._baseline_prediction, trees, X) if few else model._raw_predict(X)
    return finish_boosting(model, classes, raw)


def sum_trees(baseline: Matrix, trees: FlatTrees | LeafMasks, X: Matrix) -> Matrix:
    """Return a baseline, (1, n_outputs), plus the trees' values: (n_rows, n_outputs)."""
    n_outputs = baseline.shape[1]
    values = trees.find_values(X).reshape(len(X), -1, n_outputs)
    first = np.broadcast_to(baseline, (len(X), 1, n_outputs))
    return sum_in_order(np.concatenate([first, values], axis=1))


def finish_boosting(model: Any, classes: Any, raw: Matrix) -> Scores:
    """Return what the sums of histogram boosting, (n_rows, n_outputs), stand for by its loss."""
    if classes is None:
        return Scores(model._loss.link.inverse(raw.ravel()))
    code = (raw[:, 0] > 0).astype(np.intp) if raw.shape[1] == 1 else raw.argmax(axis=1)
    return Scores(classes.take(code), model._loss.predict_proba(raw), are_labels=True)


def _score_scaled(mean: Vector, scale: Vector, scorer: Scorer, X: Matrix) -> Scores:
    """Return the scores of standardised rows. mean, scale: (n_features,)."""
    scaled = X - mean
    scaled /= scale
    if np.isinf(scaled).any():
        raise ValueError("standardisation overflows")
    return scorer(scaled)
