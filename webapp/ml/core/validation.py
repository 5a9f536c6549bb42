"""Whether a model that was built from a file is safe to predict with, and its scorer is right.

A well-formed file can still hold trees whose indices point outside of their arrays, where
compiled code would follow them, or steps that do not fit together. And a compiled scorer computes
predictions in another way than the estimator: both are tried on probe rows before they serve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from webapp.ml.core.datasets import LONGEST_LABEL, Matrix, describe_label
from webapp.ml.core.estimators import (
    find_by_type,
    has_probabilities,
    is_classifier,
    split_pipeline,
)
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
        # A method, or what libsvm is told to compute: see SVC._impl.
        if any(hasattr(type(part), name) for name in vars(part)):
            raise ArtifactUnusable("it holds an attribute with the name of a method")
    model.get_params()  # each is there
    check_is_fitted(model)
    n_features = model.n_features_in_
    if type(n_features) is not int or not 1 <= n_features <= MOST_FEATURES:
        raise ArtifactUnusable("its number of features is out of range")
    if estimator.n_features_in_ != n_features:
        raise ArtifactUnusable("its steps have different numbers of features")
    check = _CHECKS.get(type(estimator).__module__)
    if check is not None:
        check(estimator)
    if not typed and hasattr(estimator, "_predictors"):
        _refuse_categories(estimator)


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
    kind = type(split_pipeline(model)[1]).__name__
    # Between the extremes of its training rows, a model that was trained here may overflow, and
    # an exponential does for all probe rows but the smallest, which come first.
    numbers = expected.numbers[:1] if kind == "PoissonRegressor" else expected.numbers
    if profile is None and not np.isfinite(numbers).all():
        raise ArtifactUnusable("it holds numbers that are not finite")
    try:
        with np.errstate(all="ignore"):
            compiled = compile_scorer(model)
            if all(agree(compiled(X[:n_rows]), expected, n_rows) for n_rows in SIZES):
                return compiled
    except MALFORMED:
        pass
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
    if not has_probabilities(model):
        return Scores(values, are_labels=True)
    probabilities = np.asarray(model.predict_proba(X))
    if probabilities.shape != (len(X), len(model.classes_)) or probabilities.dtype.kind != "f":
        raise ArtifactUnusable("it does not give a probability for each class")
    return Scores(values, probabilities, are_labels=True)


def agree(found: Scores, expected: Scores, n_rows: int) -> bool:
    """Return whether scores are those that are expected of the first rows."""
    if expected.are_labels and not np.array_equal(found.values, expected.values[:n_rows]):
        return False
    numbers = expected.numbers[:n_rows]
    limit = TOLERANCE * np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0)
    return found.numbers.shape == numbers.shape and np.allclose(
        found.numbers, numbers, rtol=0, atol=limit, equal_nan=True
    )


def _name_type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_forest(model: Any) -> None:
    """Check a decision tree, or the trees of a forest."""
    if model.n_outputs_ != 1:
        raise ArtifactUnusable("it predicts more than one target")
    if is_classifier(model) and model.n_classes_ != len(model.classes_):
        raise ArtifactUnusable("its number of classes is not that of its labels")
    alone = type(model).__module__ == "sklearn.tree._classes"
    for member in [model] if alone else model.estimators_:
        _check_tree(member, model.n_features_in_)


def _check_tree(member: Any, n_features: int) -> None:
    tree = member.tree_
    # node_count comes from the file, capacity from the array of nodes that was copied: the
    # state may be read only where they agree.
    if not (
        type(member).__module__ == "sklearn.tree._classes"
        and member.n_outputs_ == tree.n_outputs == 1
        and tree.n_features == n_features
        and tree.node_count == tree.capacity >= 1
    ):
        raise ArtifactUnusable(_BAD_PARTS)
    state = tree.__getstate__()
    nodes = state["nodes"]
    inner = nodes["left_child"] != -1
    fields = ("left_child", "right_child", "feature", "threshold")
    if not (
        np.array_equal(nodes["right_child"] != -1, inner)
        and np.isfinite(state["values"]).all()
        and _are_within(nodes, inner, fields, n_features)
    ):
        raise ArtifactUnusable(_BAD_TREE)


def _check_stages(model: Any) -> None:
    """Check gradient boosting: (n_stages, n_outputs) trees, and a constant that they start from.

    Its compiled code trusts that each is a tree of one value per node, and writes as many
    outputs as there are trees in a stage.
    """
    width, members, first = model.n_trees_per_iteration_, model.estimators_, model.init_
    n_classes = len(model.classes_) if is_classifier(model) else 1
    expected = "DummyClassifier" if is_classifier(model) else "DummyRegressor"
    if (
        _name_type(first) != f"sklearn.dummy.{expected}"
        or any(hasattr(type(first), name) for name in vars(first))
        or (is_classifier(model) and (first.strategy != "prior" or first.n_classes_ != n_classes))
        or first.n_outputs_ != 1
        or np.size(first.class_prior_ if is_classifier(model) else first.constant_) != n_classes
        or type(model._loss).__module__ != "sklearn._loss.loss"
        or type(width) is not int
        or width != (n_classes if n_classes > 2 else 1)
        or members.shape != (len(members), width)
        or len(members) < 1
    ):
        raise ArtifactUnusable(_BAD_PARTS)
    for member in members.ravel():
        _check_tree(member, model.n_features_in_)
        if member.tree_.max_n_classes != 1:
            raise ArtifactUnusable(_BAD_PARTS)
    if model._raw_predict_init(np.zeros((1, model.n_features_in_))).shape != (1, width):
        raise ArtifactUnusable(_BAD_PARTS)


def _check_support_vectors(model: Any) -> None:
    """Check the arrays that libsvm reads as far as their number of classes and vectors say."""
    if hasattr(model, "support_vectors_"):
        vectors, n_support = model.support_vectors_, model._n_support
        n_classes = len(model.classes_) if is_classifier(model) else 2
        n_vectors = len(vectors)
        if (
            model.kernel not in ("linear", "poly", "rbf", "sigmoid")
            or model._sparse is not False
            or model._effective_probability is not False
            or vectors.shape != (n_vectors, model.n_features_in_)
            or model.support_.shape != (n_vectors,)
            or n_support.shape != (n_classes,)
            or (n_support < 0).any()
            or (is_classifier(model) and n_support.sum() != n_vectors)
            or model._dual_coef_.shape != (n_classes - 1, n_vectors)
            or model._intercept_.shape != (n_classes * (n_classes - 1) // 2,)
            or model._probA.size != 0
            or model._probB.size != 0
        ):
            raise ArtifactUnusable(_BAD_PARTS)


def _check_neighbors(model: Any) -> None:
    """Check the rows of neighbors, and grow their search tree again: nothing in it is checked."""
    from sklearn.neighbors import KDTree

    rows, target = model._fit_X, model._y
    n_rows = len(rows)
    metric = {1: "manhattan", 2: "euclidean"}.get(model.p)
    if (
        (model.metric, model.metric_params, model.effective_metric_params_)
        != ("minkowski", None, {})
        or model.effective_metric_ != metric
        or model.weights not in ("uniform", "distance")
        or model._fit_method not in ("brute", "kd_tree")
        or rows.dtype != np.float64
        or not rows.flags.c_contiguous
        or rows.shape != (n_rows, model.n_features_in_)
        or model.n_samples_fit_ != n_rows
        or not np.isfinite(rows).all()
        or target.shape not in ((n_rows,), (n_rows, 1))
    ):
        raise ArtifactUnusable(_BAD_PARTS)
    if is_classifier(model) and (
        model.outputs_2d_ is not False
        or target.shape != (n_rows,)
        or target.dtype.kind != "i"
        or (target < 0).any()
        or (target >= len(model.classes_)).any()
    ):
        raise ArtifactUnusable(_BAD_PARTS)
    if model._fit_method == "brute":
        model._tree = None
    else:
        model._tree = KDTree(rows, leaf_size=model.leaf_size, metric=metric)


def _check_network(model: Any) -> None:
    # What another object's inverse_transform would do, nobody has checked.
    if is_classifier(model):
        binarizer = model._label_binarizer
        if _name_type(binarizer) != "sklearn.preprocessing._label.LabelBinarizer" or any(
            hasattr(type(binarizer), name) for name in vars(binarizer)
        ):
            raise ArtifactUnusable(_BAD_PARTS)


def _check_boosting(model: Any) -> None:
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

    n_features, width = model.n_features_in_, model.n_trees_per_iteration_
    is_categorical = model._bin_mapper.is_categorical_
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


def _refuse_categories(model: Any) -> None:
    trees = [predictor for iteration in model._predictors for predictor in iteration]
    if (
        model._preprocessor is not None
        or model._bin_mapper.is_categorical_.any()
        or any(tree.nodes["is_categorical"].any() for tree in trees)
    ):
        raise ArtifactUnusable("it has categorical features, which are not supported")


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "sklearn.tree._classes": _check_forest,
    "sklearn.ensemble._forest": _check_forest,
    "sklearn.ensemble._gb": _check_stages,
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting": _check_boosting,
    "sklearn.svm._classes": _check_support_vectors,
    "sklearn.neighbors._regression": _check_neighbors,
    "sklearn.neighbors._classification": _check_neighbors,
    "sklearn.neural_network._multilayer_perceptron": _check_network,
}
"""By the module of an estimator, what checks what compiled code would trust."""
