"""Compiled scorers: scikit-learn's own numbers to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from webapp.errors import InvalidInput
from webapp.ml.core.scoring import LinearScorer, compile_scorer, score


def make_rows(n_rows: int, n_features: int, seed: int = 0) -> np.ndarray:
    random = np.random.RandomState(seed)
    return random.randn(n_rows, n_features) * 10.0 ** random.uniform(-3, 3, n_features)


@pytest.mark.parametrize("params", [{}, {"fit_intercept": False}, {"positive": True}])
@pytest.mark.parametrize("n_features", [1, 2, 3, 10, 65])
def test_a_compiled_linear_model_gives_the_very_bits_of_predict(
    n_features: int, params: dict[str, bool]
) -> None:
    X = make_rows(80, n_features)
    estimator = LinearRegression(**params).fit(X, X @ np.arange(n_features) + 3)

    scorer = compile_scorer(estimator)

    assert type(scorer) is LinearScorer
    for n_rows in (1, 2, 3, 17, 500):
        rows = make_rows(n_rows, n_features, seed=n_rows)
        assert np.array_equal(scorer.predict(rows), estimator.predict(rows))


def test_predicting_leaves_the_rows_and_the_scorer_as_they_are() -> None:
    X = make_rows(20, 3)
    scorer = compile_scorer(LinearRegression().fit(X, X[:, 0]))
    rows = X.copy()

    first = scorer.predict(rows)

    assert np.array_equal(rows, X)
    assert np.array_equal(scorer.predict(rows), first)


def test_an_estimator_without_a_faster_form_scores_for_itself() -> None:
    class Clipped(LinearRegression):
        """A linear model whose predict is not the linear one."""

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.maximum(super().predict(X), 0)

    X = make_rows(20, 3)
    ridge = Ridge().fit(X, X[:, 0])
    clipped = Clipped().fit(X, X[:, 0])

    assert compile_scorer(ridge) is ridge
    assert np.array_equal(score(compile_scorer(clipped), X), clipped.predict(X))


def test_a_score_is_one_float64_per_row() -> None:
    scorer = LinearScorer(np.array([2.0, -1.0]), 0.5)

    values = score(scorer, np.array([[1.0, 2.0], [3.0, 4.0]]))

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
