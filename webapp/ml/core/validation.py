"""Whether it is safe to predict with a model that was built from a file.

A well-formed file can still hold trees whose indices point outside of their arrays, where
compiled code would follow them, or steps that do not fit together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from webapp.ml.core.estimators import find_by_type, is_classifier, split_pipeline
from webapp.ml.errors import ArtifactUnusable

MOST_FEATURES = 2**20  # whatever an operator allows
PIPELINE = "sklearn.pipeline.Pipeline"
SCALER = "sklearn.preprocessing._data.StandardScaler"
_BAD_TREE = "its tree node indices or values are out of range"
_BAD_PARTS = "its parts do not fit together"


def check_estimator(model: Any) -> None:
    """Raise ArtifactUnusable unless the model is fitted, and safe to predict with.

    For parts of types that nobody expects, it raises what Python raises for them. Whether the
    model predicts one value per row is left to ``probe.make_scorer``.
    """
    from sklearn.utils.validation import check_is_fitted

    if _name_type(model) == PIPELINE:
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
        _check_boosting(estimator)


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


def _check_boosting(model: Any) -> None:
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

    n_features, width = model.n_features_in_, model.n_trees_per_iteration_
    is_categorical = model._bin_mapper.is_categorical_
    if model._preprocessor is not None or is_categorical.any():
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
            and not nodes["is_categorical"].any()
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
