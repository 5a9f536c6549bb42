"""What features add to the sum of trees: Shapley's values over all subsets, and those of shap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from webapp.ml.core import tree_shap
from webapp.ml.core.explaining import ModelExplainer
from webapp.ml.core.signature import matrix_signature

N_FEATURES = 4
RANDOM = np.random.RandomState(0)
X = RANDOM.randn(200, N_FEATURES).round(1)  # many rows lie on a threshold
X[:, 0] = RANDOM.randint(0, 9, 200)
Y = X[:, 3] * X[:, 1] + X[:, 2] + (X[:, 0] % 3)
CLASSES = np.digitize(Y, [0, 2])
WITH_GAPS = np.where(RANDOM.rand(*X.shape) < 0.2, np.nan, X)
FEW: dict[str, Any] = {"n_estimators": 3, "max_depth": 4, "random_state": 0}
HISTOGRAM: dict[str, Any] = {"max_iter": 3, "max_leaf_nodes": 8, "min_samples_leaf": 5}
CODED = {**HISTOGRAM, "categorical_features": [0]}
MODELS: dict[str, tuple[Any, Any, Any]] = {
    "a tree": (DecisionTreeRegressor(random_state=0), X, Y),
    "a tree of classes": (DecisionTreeClassifier(max_depth=5, random_state=0), X, CLASSES),
    "a tree with gaps": (DecisionTreeRegressor(max_depth=4, random_state=0), WITH_GAPS, Y),
    "a tree that asks nothing": (DecisionTreeRegressor(max_leaf_nodes=2), X, np.ones(200)),
    "a forest": (RandomForestRegressor(**FEW), X, Y),
    "a forest of classes": (RandomForestClassifier(**FEW), WITH_GAPS, CLASSES),
    "extra trees of weighted classes": (
        ExtraTreesClassifier(**FEW, class_weight="balanced"),
        X,
        CLASSES > 1,
    ),
    "stages": (GradientBoostingRegressor(**FEW), X, Y),
    "stages of two classes": (GradientBoostingClassifier(**FEW), X, CLASSES > 1),
    "stages of classes": (GradientBoostingClassifier(**FEW), X, CLASSES),
    "histograms": (HistGradientBoostingRegressor(**HISTOGRAM), WITH_GAPS, Y),
    "histograms with categories": (HistGradientBoostingRegressor(**CODED), WITH_GAPS, Y),
    "histograms of two classes": (HistGradientBoostingClassifier(**CODED), X, CLASSES > 1),
    "histograms of classes": (HistGradientBoostingClassifier(**CODED), WITH_GAPS, CLASSES),
}


def fit(name: str) -> tuple[Any, ModelExplainer]:
    unfitted, rows, y = MODELS[name]
    model = unfitted.fit(rows, y)
    signature = matrix_signature([f"x{n}" for n in range(rows.shape[1])], "regression")
    return model, ModelExplainer(model, signature, lambda rows, _texts: rows)


def list_trees(model: Any) -> list[tuple[Any, int, float]]:
    """Return the trees of a model, each with the function it adds to, and its weight."""
    if hasattr(model, "_predictors"):
        return [(tree, n, 1.0) for stage in model._predictors for n, tree in enumerate(stage)]
    if hasattr(model, "init_"):
        rate = model.learning_rate
        return [(t.tree_, n, rate) for stage in model.estimators_ for n, t in enumerate(stage)]
    members = getattr(model, "estimators_", [model])
    return [(member.tree_, 0, 1 / len(members)) for member in members]


def walk(tree: Any, x: Any, known: frozenset[int], node: int = 0) -> Any:
    """Return what a tree says of a row of which only some features are known."""
    if hasattr(tree, "nodes"):
        found = tree.nodes[node]
        value, cover, is_leaf = found["value"], tree.nodes["count"], found["is_leaf"]
        left, right, feature = int(found["left"]), int(found["right"]), found["feature_idx"]
        missing_left, threshold = found["missing_go_to_left"], found["num_threshold"]
        coded = found["is_categorical"]
    else:
        value, cover = tree.value[node, 0], tree.weighted_n_node_samples
        left, right, feature = (
            tree.children_left[node],
            tree.children_right[node],
            tree.feature[node],
        )
        is_leaf, threshold, coded = left == -1, tree.threshold[node], False
        missing_left, x = tree.missing_go_to_left[node], x.astype(np.float32)
    if is_leaf:
        return np.atleast_1d(value)
    if feature not in known:
        below = [cover[child] * walk(tree, x, known, child) for child in (left, right)]
        return sum(below) / cover[node]
    if np.isnan(x[feature]):
        goes_left = missing_left
    elif coded:
        bits = tree.raw_left_cat_bitsets[found["bitset_idx"]]
        goes_left = int(bits[int(x[feature]) // 32]) >> (int(x[feature]) % 32) & 1
    else:
        goes_left = x[feature] <= threshold
    return walk(tree, x, known, left if goes_left else right)


def add_up(model: Any, x: Any, known: frozenset[int], n_functions: int) -> Any:
    sums = np.zeros(n_functions)
    for tree, function, weight in list_trees(model):
        found = weight * walk(tree, x, known)
        sums[function : function + len(found)] += found
    return sums


def shapley(value: Callable[[frozenset[int]], Any]) -> Any:
    """Return what each feature adds by the definition, (n_features, n_functions)."""
    everything = frozenset(range(N_FEATURES))
    subsets = [
        frozenset(subset)
        for size in range(N_FEATURES + 1)
        for subset in itertools.combinations(everything, size)
    ]
    values = {subset: value(subset) for subset in subsets}
    added = []
    for feature in range(N_FEATURES):
        parts = [
            (values[subset | {feature}] - values[subset])
            / (N_FEATURES * math.comb(N_FEATURES - 1, len(subset)))
            for subset in subsets
            if feature not in subset
        ]
        added.append(sum(parts))
    return np.array(added)


@pytest.mark.parametrize("name", MODELS)
def test_contributions_are_shapley_values_over_all_subsets(name: str) -> None:
    model, explain = fit(name)
    rows = MODELS[name][1][:2].copy()
    rows[1, 0] = 8.0

    found = explain(rows)

    n_functions = len(found.base)
    nothing = add_up(model, rows[0], frozenset(), n_functions)
    start = found.base - nothing  # of boosting, what its trees are added to
    assert "Boosting" in type(model).__name__ or np.allclose(start, 0)
    for row, x in enumerate(rows):
        expected = shapley(lambda known, x=x: add_up(model, x, known, n_functions))
        assert np.allclose(found.contributions[row], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["a forest of classes", "histograms with categories"])
def test_tables_that_are_too_large_to_keep_are_made_in_pieces(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = MODELS[name][1]
    expected = fit(name)[1](rows)
    monkeypatch.setattr(tree_shap, "CELLS_KEPT", 0)
    monkeypatch.setattr(tree_shap, "CELLS_AT_ONCE", 40)
    monkeypatch.setattr(tree_shap, "BLOCK_CELLS", 100)

    found = fit(name)[1](rows)

    assert np.allclose(found.base, expected.base, rtol=1e-12)
    assert np.allclose(found.contributions, expected.contributions, rtol=1e-9, atol=1e-12)


def test_a_path_of_many_features_is_summed_exactly() -> None:
    rows = np.eye(60)[np.arange(61) % 60] * np.arange(1, 62)[:, np.newaxis]
    model = DecisionTreeRegressor(random_state=0).fit(rows, np.arange(61.0))
    signature = matrix_signature([f"x{n}" for n in range(60)], "regression")

    found = ModelExplainer(model, signature, lambda rows, _texts: rows)(rows)

    assert model.get_depth() > 40
    sums = found.base + found.contributions.sum(axis=1)
    assert np.allclose(sums[:, 0], model.predict(rows), rtol=1e-9)


NOT_IN_SHAP = ("nothing", "stages of classes", "categories", "histograms of")


@pytest.mark.slow  # shap takes 5 seconds to import, most of which is numba
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in MODELS if not any(map(n.count, NOT_IN_SHAP))])
def test_contributions_are_those_of_shap(name: str) -> None:
    shap = pytest.importorskip("shap")
    model, explain = fit(name)
    rows = MODELS[name][1]
    explainer = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent")

    expected = explainer.shap_values(rows, check_additivity=False)
    found = explain(rows)

    expected = np.reshape(expected, found.contributions.shape)
    assert np.allclose(found.contributions, expected, rtol=1e-6, atol=1e-9)
    assert np.allclose(found.base, np.ravel(explainer.expected_value), rtol=1e-6)
