"""Compiled scorers: scikit-learn's own numbers, but for a processor's last digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from webapp.errors import InvalidInput
from webapp.ml.core.scoring import LinearScorer, compile_scorer, score


def make_rows(n_rows: int, n_features: int, seed: int = 0) -> np.ndarray:
    random = np.random.RandomState(seed)
    return random.randn(n_rows, n_features) * 10.0 ** random.uniform(-3, 3, n_features)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Check that numbers are equal but for the order in which a processor has summed them."""
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * abs(expected).max())


@pytest.mark.parametrize("params", [{}, {"fit_intercept": False}, {"positive": True}])
@pytest.mark.parametrize("n_features", [1, 2, 3, 10, 65])
def test_a_compiled_linear_model_predicts_what_scikit_learn_does(
    n_features: int, params: dict[str, bool]
) -> None:
    X = make_rows(80, n_features)
    estimator = LinearRegression(**params).fit(X, X @ np.arange(n_features) + 3)

    scorer = compile_scorer(estimator)

    assert type(scorer) is LinearScorer
    for n_rows in (1, 2, 3, 17, 500):
        rows = make_rows(n_rows, n_features, seed=n_rows)
        assert_close(scorer.score(rows).values, estimator.predict(rows))


def test_predicting_leaves_the_rows_and_the_scorer_as_they_are() -> None:
    X = make_rows(20, 3)
    scorer = compile_scorer(LinearRegression().fit(X, X[:, 0]))
    rows = X.copy()

    first = scorer.score(rows).values

    assert np.array_equal(rows, X)
    assert_close(scorer.score(rows).values, first)


def test_an_estimator_without_a_faster_form_scores_for_itself() -> None:
    class Clipped(LinearRegression):
        """A linear model whose predict is not the linear one."""

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.maximum(super().predict(X), 0)

    X = make_rows(20, 3)
    clipped = Clipped().fit(X, X[:, 0])
    forest = RandomForestRegressor(3, random_state=0).fit(X, X[:, 0])

    for estimator in (clipped, forest):
        values = score(compile_scorer(estimator), X).values
        assert_close(values, estimator.predict(X))


@pytest.mark.parametrize("estimator", [Ridge(), Lasso(alpha=0.01), ElasticNet(alpha=0.01)])
def test_the_other_linear_models_are_compiled_too(estimator: Ridge) -> None:
    X = make_rows(80, 5)
    estimator.fit(X, X @ np.arange(5) + 3)

    scorer = compile_scorer(estimator)

    assert type(scorer) is LinearScorer
    assert_close(scorer.score(X).values, estimator.predict(X))


def test_standardisation_is_folded_into_a_linear_model() -> None:
    X = make_rows(80, 5)
    pipeline = make_pipeline(StandardScaler(), Ridge()).fit(X, X @ np.arange(5) + 3)

    scorer = compile_scorer(pipeline)

    assert type(scorer) is LinearScorer
    np.testing.assert_allclose(scorer.score(X).values, pipeline.predict(X), rtol=1e-10)


def test_a_classifier_gives_labels_and_probabilities() -> None:
    X = make_rows(80, 3)
    labels = np.where(X[:, 0] > 0, "up", "down")
    classifier = LogisticRegression().fit(X / np.abs(X).max(axis=0), labels)

    scores = score(compile_scorer(classifier), X / np.abs(X).max(axis=0))

    rows = X / np.abs(X).max(axis=0)
    assert scores.values.tolist() == classifier.predict(rows).tolist()
    assert_close(scores.probabilities, classifier.predict_proba(rows))


def test_a_score_is_one_float64_per_row() -> None:
    scorer = LinearScorer(np.array([2.0, -1.0]), 0.5)

    values = score(scorer, np.array([[1.0, 2.0], [3.0, 4.0]])).values

    assert values.tolist() == [0.5, 2.5]
    assert values.dtype == np.float64


@pytest.mark.parametrize(
    ("rows", "row"),
    [
        ([[1e308, 0]], "0"),
        ([[1, 1], [-1e308, 0]], "1"),
        ([[1, 1], [1e308, -1e308], [1e308, 0]], "1"),
    ],
)
def test_a_prediction_beyond_float64_is_refused_by_row(rows: list[list[float]], row: str) -> None:
    scorer = LinearScorer(np.array([1e10, 1e10]), 0.0)

    with pytest.raises(InvalidInput) as raised:
        score(scorer, np.array(rows, dtype=float))

    message = "gives a prediction beyond the range of float64"
    assert raised.value.faults == {row: [message]}
