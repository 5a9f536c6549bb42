"""Flat trees: forests and boosted trees give scikit-learn's own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from webapp.errors import InvalidInput
from webapp.ml.core.scoring import (
    FEW_BOOSTING_ROWS,
    FEW_FOREST_ROWS,
    BoostingScorer,
    ForestScorer,
    LogisticScorer,
    ScaledScorer,
    compile_scorer,
    score,
)
from webapp.ml.core.trees import DEEPEST, Tree, flatten_trees

REGRESSORS = [
    RandomForestRegressor(20, random_state=0),
    RandomForestRegressor(5, max_depth=1, random_state=0),
    RandomForestRegressor(3, max_leaf_nodes=4, criterion="absolute_error", random_state=0),
    HistGradientBoostingRegressor(max_iter=20, random_state=0),
    HistGradientBoostingRegressor(max_iter=1, max_depth=1, random_state=0),
]
CLASSIFIERS = [
    RandomForestClassifier(20, random_state=0),
    HistGradientBoostingClassifier(max_iter=20, random_state=0),
    LogisticRegression(max_iter=5000),
]
COMPILED = (ForestScorer, BoostingScorer, LogisticScorer, ScaledScorer)


def assert_close(found: Any, expected: Any) -> None:
    """Check that labels are equal, and numbers but for the processor's last digits."""
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    else:
        assert found.tolist() == expected.tolist()


def assert_scores_equal(estimator: Any, X: np.ndarray) -> None:
    """Hold a compiled scorer against its estimator, for one row, a few, and many."""
    scorer = compile_scorer(estimator)
    assert isinstance(scorer, COMPILED)
    for n_rows in (1, 2, FEW_FOREST_ROWS, FEW_BOOSTING_ROWS, FEW_BOOSTING_ROWS + 1):
        rows = X[np.random.RandomState(n_rows).randint(0, len(X), n_rows)]
        rows = rows + np.random.RandomState(1).normal(size=rows.shape) * X.std(axis=0) / 10
        scores = score(scorer, rows)
        assert_close(scores.values, estimator.predict(rows))
        if hasattr(estimator, "predict_proba"):
            assert_close(scores.probabilities, estimator.predict_proba(rows))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("estimator", REGRESSORS, ids=str)
def test_a_regressor_predicts_what_scikit_learn_does(estimator: Any, scale: bool) -> None:
    X, y = load_diabetes(return_X_y=True)
    model = make_pipeline(StandardScaler(), estimator) if scale else estimator

    assert_scores_equal(model.fit(X * 1e3, y), X * 1e3)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=str)
def test_a_classifier_predicts_what_scikit_learn_does(
    estimator: Any, load: Any, scale: bool
) -> None:
    X, y = load(return_X_y=True)
    labels = np.array(["a", "b", "c"])[y]
    model = make_pipeline(StandardScaler(), estimator) if scale else estimator

    assert_scores_equal(model.fit(X, labels), X)


def test_a_row_at_a_threshold_goes_where_scikit_learn_sends_it() -> None:
    X = np.array([[0.1], [0.2], [0.3], [1 / 3], [0.4]] * 4)
    forest = RandomForestRegressor(10, random_state=0).fit(X, np.arange(20.0))
    thresholds = {t for tree in forest.estimators_ for t in tree.tree_.threshold if t > 0}
    rows = np.array([[as_(t)] for t in thresholds for as_ in (float, np.float32)])

    assert_close(score(compile_scorer(forest), rows).values, forest.predict(rows))


def test_values_beyond_float32_are_refused_as_scikit_learn_does() -> None:
    X, y = load_iris(return_X_y=True)
    scorer = compile_scorer(RandomForestClassifier(3, random_state=0).fit(X, y))

    with pytest.raises(InvalidInput, match="beyond the range"):
        score(scorer, np.full((1, 4), 1e300))


def test_a_tree_that_is_a_long_chain_is_left_to_scikit_learn() -> None:
    length = DEEPEST + 2
    nodes = np.arange(2 * length + 1)
    inner = (nodes % 2 == 0) & (nodes < 2 * length)
    chain = Tree(
        left=np.where(inner, nodes + 1, -1),
        right=np.where(inner, nodes + 2, -1),
        feature=np.where(inner, 0, -2),
        threshold=nodes.astype(float),
        is_leaf=~inner,
        values=nodes[:, np.newaxis].astype(float),
    )

    assert flatten_trees([chain]) is None


def test_a_tree_of_a_single_leaf_says_the_same_of_every_row() -> None:
    forest = RandomForestRegressor(3, random_state=0).fit([[0.0], [1.0]], [7.0, 7.0])

    values = score(compile_scorer(forest), np.array([[0.0], [5.0]])).values

    assert values.tolist() == [7.0, 7.0]
