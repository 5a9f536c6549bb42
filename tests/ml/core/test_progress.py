"""How far a training is: counted to the end, and with the very trees that scikit-learn grows."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes

from webapp.ml.core import progress, training
from webapp.ml.core.datasets import Dataset, make_dataset
from webapp.ml.core.estimators import (
    CATALOGUE,
    build_estimator,
    is_classifier,
    resolve_params,
    split_pipeline,
)
from webapp.ml.core.selection import CANDIDATES
from webapp.ml.core.training import TrainingSpec

REGRESSION = load_diabetes(return_X_y=True)
CLASSES = load_breast_cancer(return_X_y=True)
FORESTS = ["random_forest", "extra_trees", "random_forest_classifier", "extra_trees_classifier"]
STAGES = ["gradient_boosting", "gradient_boosting_classifier"]
TREES = ("children_left", "children_right", "feature", "threshold", "value", "impurity")

Told = list[tuple[int, int | None, str]]


def load(name: str) -> tuple[Any, Any]:
    return REGRESSION if CATALOGUE[name].task == "regression" else CLASSES


def build(name: str, *, scale: bool = False, **params: Any) -> Any:
    row = CATALOGUE[name]
    return build_estimator(row, resolve_params(row, params), random_state=3, scale=scale)


def fit_both(unfitted: Any, X: Any, y: Any) -> tuple[Any, Any, Told]:
    """Return an estimator as scikit-learn fits it, as it is fitted here, and what was told."""
    told: Told = []
    found = clone(unfitted)
    progress.fit(found, X, y, lambda *report: told.append(report))
    return clone(unfitted).fit(X, y), found, told


def assert_same(expected: Any, found: Any, X: Any) -> None:
    """Check that two models have the same trees, to the last bit, and the same parameters."""
    one, other = split_pipeline(expected)[1], split_pipeline(found)[1]
    assert one.get_params() == other.get_params()
    assert set(vars(one)) == set(vars(other))
    trees = [np.ravel(model.estimators_).tolist() for model in (one, other)]
    for tree, same in zip(*trees, strict=True):
        for name in TREES:
            values = getattr(tree.tree_, name), getattr(same.tree_, name)
            np.testing.assert_array_equal(*values)
    np.testing.assert_array_equal(expected.predict(X), found.predict(X))
    if is_classifier(expected):
        np.testing.assert_array_equal(expected.predict_proba(X), found.predict_proba(X))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("name", FORESTS)
def test_a_forest_that_grows_in_steps_is_bit_for_bit_that_of_one_fit(
    name: str, bootstrap: bool, scale: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUICKLY_GROWN", 0)
    X, y = load(name)
    forest = build(name, scale=scale, n_estimators=23, bootstrap=bootstrap, max_features="sqrt")

    expected, found, told = fit_both(forest, X, y)

    assert_same(expected, found, X)
    done = [0, 2, 4, 6, 9, 11, 13, 16, 18, 20, 23]
    assert told == [(count, 23, "trees") for count in done]


@pytest.mark.parametrize(
    "params", [{"class_weight": "balanced"}, {"max_samples": 0.5}, {"n_estimators": 3}], ids=str
)
def test_whatever_its_parameters(params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUICKLY_GROWN", 0)
    forest = build("random_forest_classifier", **{"n_estimators": 12, **params})

    expected, found, told = fit_both(forest, *CLASSES)

    assert_same(expected, found, CLASSES[0])
    assert told[-1] == (forest.n_estimators, forest.n_estimators, "trees")


def test_few_rows_grow_a_forest_in_one_step() -> None:
    X, y = REGRESSION

    _, _, told = fit_both(build("random_forest", n_estimators=5), X, y)

    assert told == [(0, 5, "trees"), (5, 5, "trees")]


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("name", STAGES)
def test_gradient_boosting_tells_its_iterations_and_is_that_of_scikit_learn(
    name: str, scale: bool
) -> None:
    X, y = load(name)

    expected, found, told = fit_both(build(name, scale=scale, n_estimators=7), X, y)

    assert_same(expected, found, X)
    assert told == [(done, 7, "iterations") for done in range(8)]


def train(dataset: Dataset, **spec: Any) -> Told:
    """Return what a training tells."""
    told: Told = []
    training.train(
        dataset,
        TrainingSpec(**spec),
        clock=time.perf_counter,
        report=lambda *report: told.append(report),
    )
    return told


def test_a_training_tells_trees_and_folds_and_with_refit_trees_again() -> None:
    spec = {"estimator": "random_forest", "params": {"n_estimators": 2}, "cv": 3, "refit": True}

    told = train(make_dataset(*REGRESSION), **spec)

    trees = [(0, 2, "trees"), (2, 2, "trees")]
    assert told == [*trees, *[(done, 3, "folds") for done in range(4)], *trees]


def test_auto_tells_its_candidates_even_those_that_are_not_tried() -> None:
    told = train(
        make_dataset(REGRESSION[0][:60], REGRESSION[1][:60]), estimator="auto", time_budget=0.001
    )

    count = len(CANDIDATES["regression"])
    assert told[: count + 1] == [(done, count, "candidates") for done in range(count + 1)]


def test_a_linear_model_tells_nothing() -> None:
    assert train(make_dataset(*REGRESSION), estimator="ridge") == []
