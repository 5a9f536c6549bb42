"""A model serves by its compiled scorer where that gives the model's own predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, Ridge

from webapp.ml.core import validation
from webapp.ml.core.metrics import profile_features
from webapp.ml.core.scoring import Scores, score_by_estimator
from webapp.ml.core.validation import make_scorer
from webapp.ml.errors import ArtifactUnusable

X, Y = load_diabetes(return_X_y=True)


@pytest.mark.parametrize("trained_here", [False, True])
@pytest.mark.parametrize("fault", ["another number", "no number", "too few", "failure", "compile"])
def test_a_compiled_scorer_that_differs_gives_way_to_the_estimator(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    trained_here: bool,
) -> None:
    model = Ridge().fit(X, Y)

    def score_wrongly(rows: Any) -> Scores:
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

    def compile_wrongly(_: Any) -> Any:
        if fault == "compile":
            raise AttributeError(fault)
        return score_wrongly

    monkeypatch.setattr(validation, "compile_scorer", compile_wrongly)

    scorer = make_scorer(model, profile_features(X) if trained_here else None)

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
