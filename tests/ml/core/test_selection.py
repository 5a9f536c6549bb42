"""The best of a few candidates is found by scikit-learn's own scores, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from webapp.errors import InvalidInput
from webapp.ml.core.estimators import CATALOGUE, build_estimator, resolve_params
from webapp.ml.core.selection import CANDIDATES, NOT_TRIED, rank_candidates

DIABETES = load_diabetes(return_X_y=True)
LONG = 600.0


def build(name: str) -> Any:
    """Return a candidate with few trees, scaled where it is linear."""
    row = CATALOGUE[name]
    few = {"n_estimators": 5, "max_iter": 5}
    names = {parameter.name for parameter in row.parameters}
    given = {} if row.is_linear else {key: few[key] for key in few if key in names}
    return build_estimator(
        row, resolve_params(row, given), random_state=0, scale=row.name == "logistic_regression"
    )


def build_constant(name: str) -> Any:
    """Return a model that learns nothing and is fitted at once, whatever the name."""
    return DummyRegressor() if CATALOGUE[name].task == "regression" else DummyClassifier()


def ticking(step: float = 1.0) -> Callable[[], float]:
    """Return a clock that is a step further at each look."""
    seconds: Iterator[float] = count(0.0, step)
    return lambda: next(seconds)


def rank(X: Any, y: Any, task: Any, **options: Any) -> list[dict[str, Any]]:
    chosen = {"seconds": LONG, "clock": time.perf_counter, "build": build, **options}
    return rank_candidates(chosen.pop("build"), X, y, task=task, **chosen)


@pytest.mark.parametrize(
    ("load", "task", "splitter"),
    [
        (load_diabetes, "regression", KFold),
        (load_iris, "classification", StratifiedKFold),
        (load_breast_cancer, "classification", StratifiedKFold),
    ],
)
def test_candidates_are_ranked_by_the_scores_of_scikit_learn(
    load: Any, task: Any, splitter: Any
) -> None:
    X, y = load(return_X_y=True)
    metric, scoring = ("r2_score", "r2") if task == "regression" else ("accuracy", "accuracy")
    folds = splitter(4, shuffle=True, random_state=7)

    ranking = rank(X, y, task, folds=4, random_state=7)

    assert {ranked["estimator"] for ranked in ranking} == set(CANDIDATES[task])
    means = [ranked["mean"] for ranked in ranking]
    assert means == sorted(means, reverse=True)
    for ranked in ranking:
        scores = cross_val_score(build(ranked["estimator"]), X, y, cv=folds, scoring=scoring)
        assert ranked["metric"] == metric
        assert ranked["mean"] == pytest.approx(scores.mean())
        assert ranked["std"] == pytest.approx(scores.std())
        assert ranked["seconds"] > 0
        assert ranked["reason"] is None


def test_a_data_frame_goes_through_the_pipelines_of_the_caller() -> None:
    X, y = load_iris(as_frame=True, return_X_y=True)
    table = X.assign(size=np.where(X["petal length (cm)"] > 3, "large", "small"))
    encode = make_column_transformer((OneHotEncoder(), ["size"]), remainder="passthrough")
    labels = np.array(["a", "b", "c"])[y]
    assert isinstance(table, pd.DataFrame)

    ranking = rank(
        table,
        labels,
        "classification",
        build=lambda name: make_pipeline(encode, build(name)),
    )

    assert ranking[0]["mean"] > 0.9
    assert [ranked["reason"] for ranked in ranking] == [None] * len(ranking)


def test_what_the_time_does_not_suffice_for_is_listed_as_not_tried() -> None:
    first, *further = CANDIDATES["regression"]

    ranking = rank(*DIABETES, "regression", seconds=0, build=build_constant)

    assert [ranked["estimator"] for ranked in ranking] == [first, *further]
    assert ranking[0]["mean"] is not None
    assert [(r["mean"], r["seconds"], r["reason"]) for r in ranking[1:]] == [
        (None, None, NOT_TRIED) for _ in further
    ]


def test_a_candidate_is_stopped_between_its_folds() -> None:
    # The clock is looked at before each of three folds, and before and after a candidate.
    ranking = rank(*DIABETES, "regression", seconds=8.5, clock=ticking(), build=build_constant)

    reasons = [ranked["reason"] for ranked in ranking]
    assert reasons[0] is None
    assert reasons[1] == "stopped after 2 of 3 folds: the time budget was used up"
    assert set(reasons[2:]) == {NOT_TRIED}


def test_a_candidate_that_cannot_be_fitted_is_listed_with_the_reason() -> None:
    def build_or_fail(name: str) -> Any:
        if name == "extra_trees":
            row = CATALOGUE["hist_gradient_boosting"]  # refuses y below 0
            params = resolve_params(row, {"loss": "poisson"})
            return build_estimator(row, params, random_state=0, scale=False)
        return build_constant(name)

    ranking = rank(DIABETES[0], -DIABETES[1], "regression", build=build_or_fail)

    assert ranking[-1]["estimator"] == "extra_trees"
    assert ranking[-1]["mean"] is None
    assert "cannot be fitted: loss='poisson' requires non-negative y" in ranking[-1]["reason"]


def test_a_rare_class_does_not_keep_candidates_from_being_compared() -> None:
    X, y = load_iris(return_X_y=True)

    ranking = rank(X[:101], y[:101], "classification", build=build_constant)

    assert all(ranked["reason"] is None for ranked in ranking)


@pytest.mark.parametrize(
    ("n_rows", "words"), [(5, "needs at least 6 rows"), (60, "finds none that can be fitted")]
)
def test_rows_that_cannot_be_compared_are_refused_in_words(n_rows: int, words: str) -> None:
    X, y = DIABETES[0][:n_rows], np.full(n_rows, np.nan)

    with pytest.raises(InvalidInput, match=words):
        rank(X, y, "regression")
