"""Whether it is safe to predict with a model that came out of a file.

A well-formed file can still describe trees that lead out of their arrays, which compiled code
would follow into other memory, or steps that do not fit together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from webapp.ml.core.estimators import find_by_type, is_classifier, split_pipeline
from webapp.ml.errors import ArtifactUnusable

MOST_FEATURES = 2**20  # whatever an operator allows
PIPELINE = "sklearn.pipeline.Pipeline"
SCALER = "sklearn.preprocessing._data.StandardScaler"
_UNSOUND_TREE = "its tree node indices or values are out of range"


def is_count(value: Any) -> bool:
    """Say whether a value is a whole number from 1."""
    return type(value) is int and value >= 1


def check_estimator(model: Any) -> None:
    """Raise ArtifactUnusable unless the model is fitted, and safe to predict with.

    Whether it predicts one value per row, ``probe.make_scorer`` finds out.
    """
    from sklearn.utils.validation import check_is_fitted

    _check_steps(model)
    check_is_fitted(model)
    _, estimator = split_pipeline(model)
    n_features = model.n_features_in_
    if not is_count(n_features) or n_features > MOST_FEATURES:
        raise ArtifactUnusable("its number of features is out of range")
    if estimator.n_features_in_ != n_features:
        raise ArtifactUnusable("its steps have different numbers of features")
    if hasattr(estimator, "estimators_"):
        _check_forest(estimator)
    if hasattr(estimator, "_predictors"):
        _check_boosting(estimator)


def _check_steps(model: Any) -> None:
    if _name_type(model) == PIPELINE:
        types = [_name_type(step) for _, step in model.steps]
        if len(types) != 2 or types[0] != SCALER or find_by_type(types[1]) is None:
            raise ArtifactUnusable(
                "its pipeline is not a StandardScaler and an estimator of the catalogue"
            )


def _name_type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_forest(forest: Any) -> None:
    if forest.n_outputs_ != 1:
        raise ArtifactUnusable("it predicts more than one target")
    if is_classifier(forest) and forest.n_classes_ != len(forest.classes_):
        raise ArtifactUnusable("its number of classes is not that of its labels")
    for member in forest.estimators_:
        tree = member.tree_
        state = tree.__getstate__()
        nodes = state["nodes"]
        inner = nodes["left_child"] != -1
        sound = (
            tree.n_features == forest.n_features_in_
            and member.n_outputs_ == 1
            and np.array_equal(nodes["right_child"] != -1, inner)
            and np.isfinite(state["values"]).all()
            and _are_sound(
                nodes,
                inner,
                ("left_child", "right_child", "feature", "threshold"),
                tree.n_features,
            )
        )
        if not sound:
            raise ArtifactUnusable(_UNSOUND_TREE)


def _check_boosting(model: Any) -> None:
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

    if model._preprocessor is not None or model._bin_mapper.is_categorical_.any():
        raise ArtifactUnusable("it has categorical features, which are not supported")
    n_features, width = model.n_features_in_, model.n_trees_per_iteration_
    if (
        model._bin_mapper.is_categorical_.shape != (n_features,)
        or not is_count(width)
        or model._baseline_prediction.shape != (1, width)
        or any(len(iteration) != width for iteration in model._predictors)
    ):
        raise ArtifactUnusable("its parts do not fit together")
    fields = ("left", "right", "feature_idx", "num_threshold")
    for iteration in model._predictors:
        for predictor in iteration:
            nodes = predictor.nodes
            sound = (
                nodes.dtype == PREDICTOR_RECORD_DTYPE
                and nodes.ndim == 1
                and len(nodes) >= 1
                and not nodes["is_categorical"].any()
                and np.isfinite(nodes["value"]).all()
                and _are_sound(nodes, nodes["is_leaf"] == 0, fields, n_features)
            )
            if not sound:
                raise ArtifactUnusable(_UNSOUND_TREE)


def _are_sound(nodes: Any, inner: Any, fields: tuple[str, str, str, str], n_features: int) -> bool:
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
