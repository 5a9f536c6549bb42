"""Boosted trees as bits reach the leaves that scikit-learn's walk reaches."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from webapp.ml.core.leaf_masks import MOST_LEAVES, make_leaf_masks


def make_rows(n_rows: int) -> np.ndarray:
    """Return rows of two codes of categories and four numbers, some of which are missing."""
    random = np.random.RandomState(0)
    X = random.standard_normal((n_rows, 6)).round(1)  # many rows lie on a threshold
    X[:, :2] = random.randint(0, [3, 60], (n_rows, 2))
    X[random.random_sample(X.shape) < 0.1] = np.nan
    return X


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("max_leaf_nodes", [2, 31, MOST_LEAVES])
def test_every_row_reaches_the_leaves_that_its_answers_leave(
    max_leaf_nodes: int, missing: bool
) -> None:
    X = make_rows(2000)
    fitted = X if missing else np.nan_to_num(X)
    y = np.nansum(X, axis=1) + X[:, 1] % 7
    model = HistGradientBoostingRegressor(
        max_iter=20, max_leaf_nodes=max_leaf_nodes, categorical_features=[0, 1]
    ).fit(fitted[~np.isnan(y)], y[~np.isnan(y)])
    trees = [tree for iteration in model._predictors for tree in iteration]

    masks = make_leaf_masks(trees)

    assert masks is not None
    for n_rows in (1, 2, 7, 12, 13, 100, 2000):
        found = masks.find_values(X[:n_rows]).sum(axis=1) + model._baseline_prediction[0, 0]
        assert np.allclose(found, model.predict(X[:n_rows]), rtol=1e-12)


def test_trees_of_a_single_leaf_and_of_several_classes_have_their_values() -> None:
    X, y = make_rows(90), np.arange(90) % 3
    model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=60).fit(X, y)
    trees = [tree for iteration in model._predictors for tree in iteration]

    masks = make_leaf_masks(trees)

    assert masks is not None
    assert masks.find_values(X).shape == (90, 9)
    raw = masks.find_values(X).reshape(90, 3, 3).sum(axis=1) + model._baseline_prediction
    assert np.allclose(raw, model._raw_predict(X))


def test_trees_of_more_leaves_than_bits_are_left_to_scikit_learn() -> None:
    X = np.random.RandomState(0).standard_normal((3000, 3))
    model = HistGradientBoostingRegressor(
        max_iter=1, max_leaf_nodes=MOST_LEAVES + 1, min_samples_leaf=5
    ).fit(X, X.sum(axis=1))

    assert make_leaf_masks(model._predictors[0]) is None
