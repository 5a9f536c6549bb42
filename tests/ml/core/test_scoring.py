"""Compiled scorers give scikit-learn's numbers, however many rows there are.

That they do whatever the parameters is tested with the catalogue (test_estimators.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from webapp.errors import InvalidInput
from webapp.ml.core import validation
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
from webapp.ml.errors import ArtifactUnusable

SIZES = (1, 2, 7, FEW_FOREST_ROWS, 13, FEW_BOOSTING_ROWS, 65, 100)
X, Y = load_diabetes(return_X_y=True)
X = X * 50 + 20
IRIS_X, CODES = load_iris(return_X_y=True)
TWO = CODES < 2
LABELS = np.array(["a", "b", "c"])[CODES]


BREAST_CANCER = load_breast_cancer(return_X_y=True)
REGRESSORS = [
    *(LinearRegression(), Ridge(), Lasso(), ElasticNet(), RandomForestRegressor(20)),
    *(HistGradientBoostingRegressor(max_iter=20), LinearRegression(fit_intercept=False)),
    # A tree that is one leaf, and trees that have very few.
    *(RandomForestRegressor(3, ccp_alpha=1e12), RandomForestRegressor(1, max_depth=1)),
    HistGradientBoostingRegressor(max_iter=1, min_samples_leaf=10**6),
    *(DecisionTreeRegressor(), DecisionTreeRegressor(max_depth=1), ExtraTreesRegressor(20)),
    *(GradientBoostingRegressor(n_estimators=20), GradientBoostingRegressor(loss="huber")),
    *(LinearSVR(), LinearSVR(fit_intercept=False), QuantileRegressor(alpha=0)),
    *(PoissonRegressor(), PoissonRegressor(fit_intercept=False, alpha=100)),
]
CLASSIFIERS = [
    *(LogisticRegression(), LogisticRegression(fit_intercept=False), RandomForestClassifier(20)),
    *(HistGradientBoostingClassifier(max_iter=20), RandomForestClassifier(3, ccp_alpha=1e12)),
    *(DecisionTreeClassifier(), ExtraTreesClassifier(20), LinearSVC()),
    *(LinearSVC(fit_intercept=False), GradientBoostingClassifier(n_estimators=20)),
]
# These score for themselves.
OWN_REGRESSORS = [SVR(), KNeighborsRegressor(), MLPRegressor(max_iter=20)]
OWN_CLASSIFIERS = [SVC(), KNeighborsClassifier(), MLPClassifier(max_iter=20), GaussianNB()]
LARGE = [RandomForestClassifier(100), HistGradientBoostingClassifier(max_iter=100)]
KINDS = [
    *(
        pytest.param(kind, X[:200, :4], Y[:200], id=str(kind))
        for kind in (*REGRESSORS, *OWN_REGRESSORS)
    ),
    *(
        pytest.param(kind, IRIS_X, LABELS, id=str(kind))
        for kind in (*CLASSIFIERS, *OWN_CLASSIFIERS)
    ),
    *(
        pytest.param(kind, IRIS_X[TWO], LABELS[TWO], id=f"two classes: {kind}")
        for kind in (*CLASSIFIERS, *OWN_CLASSIFIERS, LogisticRegression(solver="liblinear"))
    ),
    pytest.param(
        GradientBoostingClassifier(loss="exponential"), IRIS_X[TWO], LABELS[TWO], id="exponential"
    ),
    *(pytest.param(kind, *BREAST_CANCER, id=f"large: {kind}") for kind in LARGE),
    pytest.param(RandomForestRegressor(100), X, Y, id="large regression"),
]


def assert_equal(scores: Scores, model: Any, rows: Any) -> None:
    """Hold scores against the model's own predictions, to 1e-9 of the largest."""
    if not scores.are_labels:
        expected = model.predict(rows).ravel()
        limit = 1e-9 * np.abs(expected).max()
        np.testing.assert_allclose(scores.values, expected, rtol=0, atol=limit)
        return
    assert scores.values.tolist() == model.predict(rows).tolist()
    if scores.probabilities is None:
        assert not hasattr(model, "predict_proba")
        return
    np.testing.assert_allclose(scores.probabilities, model.predict_proba(rows), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(("estimator", "rows", "y"), KINDS)
def test_every_estimator_gives_scikit_learns_numbers(
    estimator: Any, rows: Any, y: Any, scale: bool
) -> None:
    model = make_pipeline(StandardScaler(), estimator) if scale else clone(estimator)
    model.fit(rows, y)

    own = estimator in (*OWN_REGRESSORS, *OWN_CLASSIFIERS)
    for scorer in (compile_scorer(model), make_scorer(model, profile_features(rows))):
        assert (scorer.func is score_by_estimator) == own
        for size in SIZES:
            drawn = rows[np.random.RandomState(size).randint(0, len(rows), size)]
            given = drawn.copy()
            assert_equal(scorer(drawn), model, given)
            assert np.array_equal(drawn, given)


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


def test_a_linear_support_vector_machine_says_which_row_is_beyond_its_range() -> None:
    model = LinearSVC().fit(IRIS_X, LABELS)

    with pytest.raises(InvalidInput, match="beyond the range"):
        score(compile_scorer(model), np.array([[1.7e308] * 4]))


def test_a_tree_that_is_a_long_chain_is_left_to_scikit_learn() -> None:
    length = DEEPEST + 2
    nodes = np.arange(2 * length + 1)
    inner = (nodes % 2 == 0) & (nodes < 2 * length)
    left, right = (np.where(inner, nodes + step, -1) for step in (1, 2))
    numbers = nodes.astype(float)

    chain = Tree(left, right, np.where(inner, 0, -2), numbers, ~inner, numbers[:, np.newaxis])

    assert flatten_trees([chain]) is None


# A compiled scorer serves only where it gives the model's own predictions


def fail(_values: Any) -> Any:
    raise IndexError


FAULTS = {
    "another number": lambda values: values * (1 + 1e-8),
    "no number": lambda values: values * np.nan,
    "too few": lambda values: values[:-1],
    "failure": fail,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_compiled_scorer_that_differs_gives_way_to_the_estimator(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    model = Ridge().fit(X, Y)

    def score_wrongly(rows: Any) -> Scores:
        values = model.predict(rows)
        return Scores(FAULTS[fault](values) if len(rows) == 5 else values)

    monkeypatch.setattr(validation, "compile_scorer", lambda _: score_wrongly)

    scorer = make_scorer(model)

    assert scorer.func is score_by_estimator
    assert np.array_equal(scorer(X).values, model.predict(X))
    assert "Ridge" in caplog.text


def test_a_model_that_is_trained_on_the_largest_numbers_loads() -> None:
    rows = np.array([[-1e308, 1.0], [1e308, 2.0], [0.0, 3.0]])
    model = LinearRegression()
    model.coef_, model.intercept_, model.n_features_in_ = np.array([1.7, 1e308]), 0.0, 2

    assert make_scorer(model, profile_features(rows)) is not None
    with pytest.raises(ArtifactUnusable, match="not finite"):
        make_scorer(model)
