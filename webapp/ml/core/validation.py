"""Whether a model that was built from a file is safe to predict with, and its scorer is right.

A well-formed file can still hold trees whose indices point outside of their arrays, where
compiled code would follow them, or steps that do not fit together. And a compiled scorer computes
predictions in another way than the estimator: both are tried on probe rows before they serve.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from webapp.ml.core.datasets import LONGEST_LABEL, Matrix, describe_label
from webapp.ml.core.estimators import find_by_type, is_classifier, split_pipeline
from webapp.ml.core.preprocessing import ESTIMATOR, is_typed
from webapp.ml.core.scoring import Scorer, Scores, compile_scorer, score_by_estimator
from webapp.ml.errors import ArtifactUnusable

log = logging.getLogger(__name__)

MOST_FEATURES = 2**20  # whatever an operator allows
PIPELINE = "sklearn.pipeline.Pipeline"
SCALER = "sklearn.preprocessing._data.StandardScaler"
_BAD_TREE = "its tree node indices or values are out of range"
_BAD_PARTS = "its parts do not fit together"

PROBE_ROWS = 100
MOST_CELLS = 10**6  # of the probe rows, or of their probabilities: 8 MB
SIZES = (1, 5, 20, PROBE_ROWS)
"""Numbers of rows to compare: trees are walked in another way for one row, a few, and many."""
TOLERANCE = 1e-9  # of the largest prediction
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What NumPy and scikit-learn raise for parts that make no sense together."""


def check_estimator(model: Any) -> None:
    """Raise ArtifactUnusable unless the model is fitted, and safe to predict with.

    For parts of types that nobody expects, it raises what Python raises for them. Whether the
    model predicts one value per row is left to ``make_scorer``.
    """
    from sklearn.utils.validation import check_is_fitted

    typed = is_typed(model)
    if typed:  # read_upload takes none of the types of its preprocessing: it was made here
        check_is_fitted(model)
        model = model.named_steps[ESTIMATOR]
    elif _name_type(model) == PIPELINE:
        types = [_name_type(step) for _, step in model.steps]
        if len(types) != 2 or types[0] != SCALER or find_by_type(types[1]) is None:
            raise ArtifactUnusable(
                "its pipeline is not a StandardScaler and an estimator of the catalogue"
            )
    scaler, estimator = split_pipeline(model)
    for part in [model, estimator] if scaler is None else [model, scaler, estimator]:
        if any(callable(getattr(type(part), name, None)) for name in vars(part)):
            raise ArtifactUnusable("it holds an attribute with the name of a method")
    model.get_params()  # each is there
    check_is_fitted(model)
    n_features = model.n_features_in_
    if type(n_features) is not int or not 1 <= n_features <= MOST_FEATURES:
        raise ArtifactUnusable("its number of features is out of range")
    if estimator.n_features_in_ != n_features:
        raise ArtifactUnusable("its steps have different numbers of features")
    if hasattr(estimator, "estimators_"):
        _check_forest(estimator)
    if hasattr(estimator, "_predictors"):
        _check_boosting(estimator, categories=typed)


def make_scorer(model: Any, profile: Mapping[str, Sequence[float | None]] | None = None) -> Scorer:
    """Return the fastest scorer of a fitted model that gives the model's own predictions.

    That is the compiled one where both agree on probe rows, else one that calls the model.
    ``profile`` is that of the rows it was trained on (``metrics.profile_features``), None where
    they are not known.

    Raises ArtifactUnusable where the model's own predict fails, or gives something else than a
    finite number, or one of its labels with finite probabilities, for each row.
    """
    try:
        with np.errstate(all="ignore"):
            if is_classifier(model):
                _check_classes(model.classes_)
            X = _draw_rows(model, profile)
            _predict(model, X[:1])  # of many rows, an array could be as long as these by chance
            expected = _predict(model, X)
    except MALFORMED as error:
        raise ArtifactUnusable(f"its own predict fails with {type(error).__name__}") from None
    # Between the extremes of its training rows, a model that was trained here may overflow.
    if profile is None and not np.isfinite(expected.numbers).all():
        raise ArtifactUnusable("it holds numbers that are not finite")
    try:
        with np.errstate(all="ignore"):
            compiled = compile_scorer(model)
            if all(agree(compiled(X[:n_rows]), expected, n_rows) for n_rows in SIZES):
                return compiled
    except MALFORMED:
        pass
    kind = type(split_pipeline(model)[1]).__name__
    log.warning("A compiled %s differs from its own predict, which serves instead.", kind)
    return partial(score_by_estimator, model)


def _draw_rows(model: Any, profile: Mapping[str, Sequence[float | None]] | None) -> Matrix:
    """Return rows to try a model on: (100, n_features), fewer of a very wide model."""
    n_features = model.n_features_in_
    width = max(n_features, len(model.classes_) if is_classifier(model) else 1)
    n_rows = min(PROBE_ROWS, max(1, MOST_CELLS // width))
    random = np.random.RandomState(0)
    if profile is not None:
        # A bound beyond float64 is None in the profile: 0 stands for it.
        low, high = (
            np.nan_to_num(np.array(profile[name], dtype=np.float64)) for name in ("min", "max")
        )
        share = random.random_sample((n_rows, n_features))
        return low * (1 - share) + high * share
    rows = random.standard_normal((n_rows, n_features))
    rows *= np.logspace(-3, 3, n_rows)[:, np.newaxis]
    scaler = split_pipeline(model)[0]
    return rows if scaler is None else scaler.inverse_transform(rows)


def _check_classes(classes: Any) -> None:
    labels = classes.tolist()
    if classes.ndim != 1 or len(labels) < 2 or len(set(labels)) != len(labels):
        raise ArtifactUnusable("its classes are not two labels or more")
    if classes.dtype.kind == "f" and not np.isfinite(classes).all():
        raise ArtifactUnusable("its classes are not finite")
    words = classes.dtype.kind in "OU"
    if words and any(type(label) is not str or describe_label(label) for label in labels):
        raise ArtifactUnusable(f"its classes are not 1 to {LONGEST_LABEL} printable characters")


def _predict(model: Any, X: Matrix) -> Scores:
    values = np.asarray(model.predict(X))
    if values.shape not in ((len(X),), (len(X), 1)):
        raise ArtifactUnusable("it predicts more than one target: fit it on a vector")
    values = values.reshape(len(X))
    if not is_classifier(model):
        if values.dtype.kind not in "fiu":
            raise ArtifactUnusable("its predictions are not numbers")
        return Scores(values)
    if not set(values.tolist()) <= set(model.classes_.tolist()):
        raise ArtifactUnusable("it predicts other labels than its classes")
    probabilities = np.asarray(model.predict_proba(X))
    if probabilities.shape != (len(X), len(model.classes_)) or probabilities.dtype.kind != "f":
        raise ArtifactUnusable("it does not give a probability for each class")
    return Scores(values, probabilities)


def agree(found: Scores, expected: Scores, n_rows: int) -> bool:
    """Return whether scores are those that are expected of the first rows."""
    if expected.probabilities is not None and not np.array_equal(
        found.values, expected.values[:n_rows]
    ):
        return False
    numbers = expected.numbers[:n_rows]
    limit = TOLERANCE * np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0)
    return found.numbers.shape == numbers.shape and np.allclose(
        found.numbers, numbers, rtol=0, atol=limit, equal_nan=True
    )


def _name_type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_forest(forest: Any) -> None:
    if forest.n_outputs_ != 1:
        raise ArtifactUnusable("it predicts more than one target")
    if is_classifier(forest) and forest.n_classes_ != len(forest.classes_):
        raise ArtifactUnusable("its number of classes is not that of its labels")
    fields = ("left_child", "right_child", "feature", "threshold")
    for member in forest.estimators_:
        tree = member.tree_
        # node_count comes from the file, capacity from the array of nodes that was copied: the
        # state may be read only where they agree.
        if not (
            type(member).__module__ == "sklearn.tree._classes"
            and member.n_outputs_ == tree.n_outputs == 1
            and tree.n_features == forest.n_features_in_
            and tree.node_count == tree.capacity >= 1
        ):
            raise ArtifactUnusable(_BAD_PARTS)
        state = tree.__getstate__()
        nodes = state["nodes"]
        inner = nodes["left_child"] != -1
        if not (
            np.array_equal(nodes["right_child"] != -1, inner)
            and np.isfinite(state["values"]).all()
            and _are_within(nodes, inner, fields, tree.n_features)
        ):
            raise ArtifactUnusable(_BAD_TREE)


def _check_boosting(model: Any, *, categories: bool) -> None:
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

    n_features, width = model.n_features_in_, model.n_trees_per_iteration_
    is_categorical = model._bin_mapper.is_categorical_
    if not categories and (model._preprocessor is not None or is_categorical.any()):
        raise ArtifactUnusable("it has categorical features, which are not supported")
    if (
        is_categorical.shape != (n_features,)
        or type(width) is not int
        or model._baseline_prediction.shape != (1, width)
        or any(len(iteration) != width for iteration in model._predictors)
        # Another object's predict_proba could run compiled code that nobody has checked.
        or type(model._loss).__module__ != "sklearn._loss.loss"
    ):
        raise ArtifactUnusable(_BAD_PARTS)
    fields = ("left", "right", "feature_idx", "num_threshold")
    for nodes in (predictor.nodes for trees in model._predictors for predictor in trees):
        if not (
            nodes.dtype == PREDICTOR_RECORD_DTYPE
            and nodes.ndim == 1
            and len(nodes) >= 1
            and (categories or not nodes["is_categorical"].any())
            and np.isfinite(nodes["value"]).all()
            and _are_within(nodes, nodes["is_leaf"] == 0, fields, n_features)
        ):
            raise ArtifactUnusable(_BAD_TREE)


def _are_within(nodes: Any, inner: Any, fields: tuple[str, ...], n_features: int) -> bool:
    """Return whether every walk from the root (node 0) stays inside the tree, and ends.

    nodes: (n_nodes,) records; inner: (n_nodes,) whether a node has children, which come
    after it. Fields: left child, right child, feature, threshold.
    """
    index = np.flatnonzero(inner)
    left, right, feature, threshold = (nodes[field][index] for field in fields)
    return bool(
        (left > index).all()
        and (left < len(nodes)).all()
        and (right > index).all()
        and (right < len(nodes)).all()
        and (feature >= 0).all()
        and (feature < n_features).all()
        and not np.isnan(threshold).any()  # infinite where missing values go their own way
    )
