"""Compiled scorers give scikit-learn's numbers, whatever the parameters and however many rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from webapp.ml.core.metrics import profile_features
from webapp.ml.core.scoring import (
    FEW_BOOSTING_ROWS,
    FEW_FOREST_ROWS,
    Scores,
    compile_scorer,
    score,
    score_by_estimator,
)
from webapp.ml.core.trees import DEEPEST, Tree, flatten_trees
from webapp.ml.core.validation import make_scorer

SIZES = (1, 2, 7, FEW_FOREST_ROWS, 13, FEW_BOOSTING_ROWS, 65, 100)
X, Y = load_diabetes(return_X_y=True)
X = X * 50 + 20
IRIS_X, CODES = load_iris(return_X_y=True)
TWO = CODES < 2
SCALERS = (None, StandardScaler())

LABELS = np.array(["a", "b", "c"])[CODES]


def vary(kind: type, fixed: dict[str, Any] | None = None, **choices: Any) -> Iterator[Any]:
    """Yield an estimator with its defaults, then one for each value of each parameter."""
    yield kind(**fixed or {})
    for name, values in choices.items():
        for value in values:
            yield kind(**(fixed or {}) | (value if isinstance(value, dict) else {name: value}))


LINEAR = {"fit_intercept": [False], "positive": [True]}
FOREST = {
    "max_depth": [1, 4],
    "min_samples_leaf": [20, 0.1],
    "max_leaf_nodes": [2, 9],
    "max_features": ["log2", 1, 0.4, None],
    "bootstrap": [False],
    "max_samples": [0.3, 11],
    "ccp_alpha": [0.01, 1e12],
    "min_impurity_decrease": [0.01],
    "oob_score": [{"oob_score": True, "n_estimators": 40}],
    "n_estimators": [1],
}
BOOSTING = {
    "learning_rate": [1.0],
    "max_iter": [1],
    "max_depth": [1, 3],
    "max_leaf_nodes": [2, None],
    "min_samples_leaf": [1, 10**6],
    "l2_regularization": [3.0],
    "max_features": [0.5],
    "max_bins": [2, 20],
    "early_stopping": [{"early_stopping": True, "n_iter_no_change": 1}],
    "interaction_cst": ["no_interactions"],
}
REGRESSORS = [
    *vary(LinearRegression, **LINEAR),
    *vary(Ridge, **LINEAR, alpha=[0, np.float64(3)], solver=["svd", "lsqr", "sag", "saga"]),
    *vary(Lasso, **LINEAR, alpha=[0.1], selection=["random"], precompute=[True]),
    *vary(ElasticNet, **LINEAR, l1_ratio=[0.1], selection=["random"], precompute=[True]),
    *vary(
        RandomForestRegressor,
        {"n_estimators": 4, "random_state": 0},
        **FOREST,
        criterion=["absolute_error", "poisson"],
        monotonic_cst=[[1, 0, -1, 0]],
    ),
    *vary(
        HistGradientBoostingRegressor,
        {"max_iter": 4, "random_state": 0},
        **BOOSTING,
        monotonic_cst=[[1, 0, -1, 0]],
        loss=["absolute_error", "poisson", "gamma", {"loss": "quantile", "quantile": 0.8}],
    ),
]
ELASTIC = [{"solver": "saga", "l1_ratio": share} for share in (0.4, 1.0)]
CLASSIFIERS = [
    *vary(
        LogisticRegression,
        C=[1e-3, np.inf],
        fit_intercept=[False],
        class_weight=["balanced"],
        solver=["newton-cg", "newton-cholesky", "sag", *ELASTIC],
    ),
    *vary(
        RandomForestClassifier,
        {"n_estimators": 4, "random_state": 0},
        **FOREST,
        criterion=["entropy", "log_loss"],
        class_weight=["balanced", "balanced_subsample"],
    ),
    *vary(HistGradientBoostingClassifier, {"max_iter": 4, "random_state": 0}, **BOOSTING),
]
ONLY_TWO = [
    *vary(LogisticRegression, {"solver": "liblinear"}, fit_intercept=[False], l1_ratio=[1.0]),
    *vary(RandomForestClassifier, {"n_estimators": 4}, monotonic_cst=[[1, 0, -1, 0]]),
    *vary(HistGradientBoostingClassifier, {"max_iter": 4}, monotonic_cst=[[1, 0, -1, 0]]),
]
KINDS = [
    *(pytest.param(kind, X[:200, :4], Y[:200], id=str(kind)) for kind in REGRESSORS),
    *(pytest.param(kind, IRIS_X, LABELS, id=str(kind)) for kind in CLASSIFIERS),
    *(
        pytest.param(kind, IRIS_X[TWO], LABELS[TWO], id=f"two classes: {kind}")
        for kind in ONLY_TWO
    ),
]


def assert_equal(scores: Scores, model: Any, rows: Any) -> None:
    """Hold scores against the model's own predictions, to 1e-9 of the largest."""
    if scores.probabilities is None:
        expected = model.predict(rows).ravel()
        limit = 1e-9 * np.abs(expected).max()
        np.testing.assert_allclose(scores.values, expected, rtol=0, atol=limit)
        return
    assert scores.values.tolist() == model.predict(rows).tolist()
    np.testing.assert_allclose(scores.probabilities, model.predict_proba(rows), rtol=0, atol=1e-9)


def check(estimator: Any, scaler: Any, rows: Any, y: Any) -> None:
    """Fit an estimator behind a scaler; hold its scorer against it, for few rows and many."""
    model = clone(estimator) if scaler is None else make_pipeline(scaler, estimator)
    model.fit(rows, y)

    for scorer in (compile_scorer(model), make_scorer(model, profile_features(rows))):
        assert scorer.func is not score_by_estimator
        for size in SIZES:
            drawn = rows[np.random.RandomState(size).randint(0, len(rows), size)]
            given = drawn.copy()
            assert_equal(scorer(drawn), model, given)
            assert np.array_equal(drawn, given)


@pytest.mark.parametrize(("estimator", "rows", "y"), KINDS)
def test_every_parameter_gives_scikit_learns_numbers(estimator: Any, rows: Any, y: Any) -> None:
    for scaler in SCALERS:
        check(estimator, scaler, rows, y)


def test_large_forests_and_deep_trees_give_scikit_learns_numbers() -> None:
    rows, codes = load_breast_cancer(return_X_y=True)

    for kind in (RandomForestClassifier(100), HistGradientBoostingClassifier(max_iter=100)):
        check(kind.set_params(random_state=0), None, rows, codes)
    check(RandomForestRegressor(100, random_state=0), None, X, Y)


def test_an_estimator_without_a_faster_form_scores_for_itself() -> None:
    class Clipped(LinearRegression):
        """A linear model whose predict is not the linear one."""

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.maximum(super().predict(X), 150)

    model = Clipped().fit(X, Y)

    assert_equal(compile_scorer(model)(X), model, X)


def test_a_scaled_linear_model_loses_no_digits_to_the_scaling() -> None:
    # Seconds since 1970 within one minute: w/s·x + (b − m·w/s) would be 4e-8 wrong.
    rows = 1.7e9 + np.random.RandomState(0).rand(80, 1) * 60
    pipeline = make_pipeline(StandardScaler(), Ridge()).fit(rows, rows[:, 0] % 60)

    scores = compile_scorer(pipeline)(rows)

    np.testing.assert_allclose(scores.values, pipeline.predict(rows), rtol=1e-12)


def test_a_row_at_a_threshold_goes_where_scikit_learn_sends_it() -> None:
    rows = np.array([[0.1], [0.2], [0.3], [1 / 3], [0.4]] * 4)
    forest = RandomForestRegressor(10, random_state=0).fit(rows, np.arange(20.0))
    thresholds = {t for tree in forest.estimators_ for t in tree.tree_.threshold if t > 0}
    at = np.array([[as_(t)] for t in thresholds for as_ in (float, np.float32)])

    assert_equal(score(compile_scorer(forest), at), forest, at)


def test_a_tree_that_is_a_long_chain_is_left_to_scikit_learn() -> None:
    length = DEEPEST + 2
    nodes = np.arange(2 * length + 1)
    inner = (nodes % 2 == 0) & (nodes < 2 * length)
    left, right = (np.where(inner, nodes + step, -1) for step in (1, 2))
    numbers = nodes.astype(float)

    chain = Tree(left, right, np.where(inner, 0, -2), numbers, ~inner, numbers[:, np.newaxis])

    assert flatten_trees([chain]) is None
