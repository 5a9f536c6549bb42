"""Compiled scorers over every parameter of the parts that they are made of, and their proof."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from webapp.ml.core import probe
from webapp.ml.core.estimators import CATALOGUE, Estimator, load_class
from webapp.ml.core.probe import make_scorer
from webapp.ml.core.profile import profile_features
from webapp.ml.core.scoring import EstimatorScorer, Scores, compile_scorer
from webapp.ml.errors import ArtifactUnusable

SIZES = (1, 2, 7, 13, 65, 100)
X, Y = load_diabetes(return_X_y=True)
X = X * 50 + 20
IRIS_X, CODES = load_iris(return_X_y=True)
TWO = CODES < 2

LABELS = {
    "integers": CODES,
    "strings": np.array(["a", "b", "c"])[CODES],
    "objects": np.array(["a", "b", "c"], dtype=object)[CODES],
    "floats": CODES * 1.0,
    "booleans": CODES == 1,
    "bytes": CODES.astype(np.uint8),
}


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
    "categorical_features": [[1, 3]],
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
CLASSIFIERS = [
    *vary(
        LogisticRegression,
        C=[1e-3, np.inf],
        fit_intercept=[False],
        class_weight=["balanced"],
        solver=[
            "newton-cg",
            "newton-cholesky",
            "sag",
            {"solver": "saga", "l1_ratio": 1.0},
            {"solver": "saga", "l1_ratio": 0.4},
        ],
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


def assert_equal(scores: Scores, model: Any, rows: Any) -> None:
    """Hold scores against the model's own predictions, to 1e-9 of the largest."""
    if scores.probabilities is None:
        expected = model.predict(rows)
        limit = 1e-9 * np.abs(expected).max()
        np.testing.assert_allclose(scores.values, expected, rtol=0, atol=limit)
        return
    assert scores.values.tolist() == model.predict(rows).tolist()
    np.testing.assert_allclose(scores.probabilities, model.predict_proba(rows), rtol=0, atol=1e-9)


def check(estimator: Any, scaler: Any, rows: Any, y: Any) -> None:
    """Fit an estimator behind a scaler; hold its scorer against it, for few rows and many."""
    model = clone(estimator) if scaler is None else make_pipeline(scaler, estimator)
    if isinstance(getattr(estimator, "categorical_features", None), list):
        rows = np.floor(rows)  # categories are whole numbers from 0, or else missing
    model.fit(rows, y)

    for scorer in (compile_scorer(model), make_scorer(model, profile_features(rows))):
        for size in SIZES:
            drawn = rows[np.random.RandomState(size).randint(0, len(rows), size)]
            assert_equal(scorer.score(drawn), model, drawn)


@pytest.mark.parametrize("estimator", REGRESSORS, ids=str)
def test_every_parameter_of_a_regression_gives_scikit_learns_numbers(estimator: Any) -> None:
    for scaler in (None, StandardScaler()):
        check(estimator, scaler, X[:200, :4], Y[:200])


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=str)
def test_every_parameter_of_a_classification_gives_scikit_learns_numbers(estimator: Any) -> None:
    for scaler in (None, StandardScaler()):
        check(estimator, scaler, IRIS_X, LABELS["strings"])


@pytest.mark.parametrize("estimator", ONLY_TWO, ids=str)
def test_two_classes_give_scikit_learns_numbers(estimator: Any) -> None:
    for scaler in (None, StandardScaler()):
        check(estimator, scaler, IRIS_X[TWO], LABELS["strings"][TWO])


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)
@pytest.mark.parametrize(("mean", "std"), [(False, True), (True, False), (False, False)])
def test_every_standardisation_is_that_of_scikit_learn(
    row: Estimator, mean: bool, std: bool
) -> None:
    few = {"n_estimators": 4} if "forest" in row.name else {}
    rows, y = (X[:200, :4], Y[:200]) if row.task == "regression" else (IRIS_X, CODES)

    check(load_class(row)(**few), StandardScaler(with_mean=mean, with_std=std), rows, y)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("rows", [slice(None), TWO], ids=["all", "two"])
@pytest.mark.parametrize(
    "kind", [LogisticRegression, RandomForestClassifier, HistGradientBoostingClassifier]
)
def test_labels_of_every_kind_are_predicted(kind: type, rows: Any, labels: Any) -> None:
    few = {RandomForestClassifier: {"n_estimators": 4}, LogisticRegression: {}}

    check(kind(**few.get(kind, {"max_iter": 4})), None, IRIS_X[rows], labels[rows])


@pytest.mark.parametrize(
    "regressor", [LinearRegression(), Ridge(), Lasso(), ElasticNet(), Ridge(fit_intercept=False)]
)
@pytest.mark.parametrize("scaler", [None, StandardScaler()], ids=str)
def test_a_target_that_was_fitted_as_a_column_is_predicted(regressor: Any, scaler: Any) -> None:
    model = clone(regressor) if scaler is None else make_pipeline(scaler, regressor)
    model.fit(X, Y[:, np.newaxis])

    scores = make_scorer(model).score(X)

    assert not isinstance(make_scorer(model), EstimatorScorer)
    np.testing.assert_allclose(scores.values, model.predict(X).ravel(), rtol=1e-9)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingRegressor(max_iter=5),
        RandomForestRegressor(5),
        HistGradientBoostingClassifier(max_iter=5),
        RandomForestClassifier(5),
    ],
    ids=str,
)
def test_missing_values_go_the_way_that_they_went_in_training(estimator: Any, scale: bool) -> None:
    random = np.random.RandomState(0)
    rows = np.where(random.rand(*IRIS_X.shape) < 0.3, np.nan, IRIS_X)
    model = make_pipeline(StandardScaler(), estimator) if scale else estimator
    model.fit(rows, CODES)

    scorer = make_scorer(model)

    assert not isinstance(scorer, EstimatorScorer)
    for size in SIZES:
        assert_equal(scorer.score(rows[:size]), model, rows[:size])
        assert_equal(scorer.score(IRIS_X[:size]), model, IRIS_X[:size])


@pytest.mark.parametrize("trained_here", [False, True])
@pytest.mark.parametrize("fault", ["another number", "no number", "too few", "failure", "compile"])
def test_a_compiled_scorer_that_differs_gives_way_to_the_estimator(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    trained_here: bool,
) -> None:
    model = Ridge().fit(X, Y)

    class Wrong:
        def score(self, rows: Any) -> Scores:
            values = model.predict(rows)
            if fault == "failure":
                raise IndexError(fault)
            if len(rows) == 5:  # a few rows only
                values = {
                    "another number": values * (1 + 1e-8),
                    "no number": values * np.nan,
                    "too few": values[:-1],
                }[fault]
            return Scores(values)

    def compile_wrong(_: Any) -> Wrong:
        if fault == "compile":
            raise AttributeError(fault)
        return Wrong()

    monkeypatch.setattr(probe, "compile_scorer", compile_wrong)

    scorer = make_scorer(model, profile_features(X) if trained_here else None)

    assert isinstance(scorer, EstimatorScorer)
    assert np.array_equal(scorer.score(X).values, model.predict(X))
    assert "Ridge" in caplog.text


def test_a_model_that_is_trained_on_the_largest_numbers_loads() -> None:
    rows = np.array([[-1e308, 1.0], [1e308, 2.0], [0.0, 3.0]])
    profile = profile_features(rows)
    model = LinearRegression()
    model.coef_, model.intercept_, model.n_features_in_ = np.array([1.7, 1e308]), 0.0, 2

    assert make_scorer(model, profile) is not None
    with pytest.raises(ArtifactUnusable, match="not finite"):
        make_scorer(model)
