"""Metrics equal scikit-learn's own functions, and the split is its ``train_test_split``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn import datasets, model_selection

from tests.ml.expected_metrics import assert_same, expect_classification, expect_regression
from webapp.ml.core.datasets import Dataset, make_dataset
from webapp.ml.core.metrics import (
    MOST_MATRIX_CLASSES,
    measure_classification,
    measure_regression,
)
from webapp.ml.core.training import TrainedModel, TrainingSpec, train

SHORT = {
    "random_forest": {"n_estimators": 15},
    "random_forest_classifier": {"n_estimators": 15},
    "hist_gradient_boosting": {"max_iter": 15},
    "hist_gradient_boosting_classifier": {"max_iter": 15},
}
REGRESSORS = ["linear_regression", "ridge", "lasso", "random_forest", "hist_gradient_boosting"]
CLASSIFIERS = [
    "logistic_regression",
    "random_forest_classifier",
    "hist_gradient_boosting_classifier",
]
X, NUMBERS = datasets.load_diabetes(return_X_y=True)
RARE = np.quantile(NUMBERS, 0.85)
TARGETS = {
    "two strings": np.where(NUMBERS > RARE, "ill", "well").astype(object),
    "three strings": np.array(["low", "high", "medium"], object)[
        np.digitize(NUMBERS, np.quantile(NUMBERS, [0.6, 0.9]))
    ],
    "two integers": (NUMBERS > RARE).astype(np.int64) * 3 - 1,
    "four integers": np.digitize(NUMBERS, np.quantile(NUMBERS, [0.5, 0.8, 0.95])) * 10,
}


def fit(dataset: Dataset, **spec: Any) -> TrainedModel:
    params = SHORT.get(spec.get("estimator", ""), {})
    options = {"params": params, "scale": True, **spec}
    return train(dataset, TrainingSpec(**options), clock=time.perf_counter)


def split(y: Any, *, seed: int = 42, test_size: float = 0.2, stratify: Any = None) -> Any:
    """Return the rows to fit and the rows to evaluate on that scikit-learn draws."""
    return model_selection.train_test_split(
        range(len(y)), test_size=test_size, random_state=seed, stratify=stratify
    )


@pytest.mark.parametrize("estimator", REGRESSORS)
def test_the_metrics_of_a_regression_are_scikit_learns(estimator: str) -> None:
    fitted, held_out = split(NUMBERS)

    trained = fit(make_dataset(X, NUMBERS), estimator=estimator)

    predicted = trained.estimator.predict(X[held_out])
    expected = expect_regression(NUMBERS[held_out], predicted, NUMBERS[fitted])
    assert_same(trained.metrics, expected)
    assert trained.metrics["mse"] < trained.metrics["baseline"]["mse"]


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_the_metrics_of_a_classification_are_scikit_learns(estimator: str, kind: str) -> None:
    y = TARGETS[kind]
    fitted, held_out = split(y, stratify=y)

    trained = fit(make_dataset(X, y), estimator=estimator)

    model = trained.estimator
    scores = (model.predict(X[held_out]), model.predict_proba(X[held_out]))
    expected = expect_classification(y[held_out], *scores, model.classes_.tolist(), y[fitted])
    assert_same(trained.metrics, expected)
    assert trained.warnings == ()


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("test_size", [0.05, 0.37, 0.8])
@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("kind", TARGETS)
def test_the_rows_held_out_are_those_of_train_test_split(
    kind: str, seed: int, test_size: float, stratify: bool
) -> None:
    y = TARGETS[kind]
    rows = np.arange(float(len(y)))[:, np.newaxis]
    fitted, held_out = split(y, seed=seed, test_size=test_size, stratify=y if stratify else None)

    trained = fit(
        make_dataset(np.hstack([rows, rows**2, rows**3]), y),
        estimator="hist_gradient_boosting_classifier",
        params={"max_iter": 1},
        random_state=seed,
        test_size=test_size,
        stratify=stratify,
    )

    moments = np.stack([rows[fitted], rows[fitted] ** 2, rows[fitted] ** 3]).mean(axis=(1, 2))
    np.testing.assert_allclose(trained.profile["mean"], moments, rtol=1e-12)
    assert (trained.n_train, trained.n_test) == (len(fitted), len(held_out))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"] * 20 + ["b"] * 19 + ["c"], "has fewer than 2 rows of class 'c': the hold-out is"),
        (["a"] * 20 + ["b"] * 18 + ["d", "c"], "2 rows of class 'c', 'd': the hold-out is"),
        (["a"] * 36 + list("bcde"), "2 rows of class 'b', 'c', 'd', …: the hold-out is"),
        (list(range(10)) * 4, "has 10 classes for 32 rows to fit and 8 held out: the hold-out is"),
    ],
)
def test_a_hold_out_that_cannot_be_stratified_is_drawn_plainly_with_a_warning(
    labels: Sequence[Any], words: str
) -> None:
    y = np.array(labels, object if isinstance(labels[0], str) else np.int64)
    dataset = make_dataset(X[: len(y)], y)
    options = {"estimator": "logistic_regression", "random_state": 3}

    trained = fit(dataset, **options)
    plain = fit(dataset, **options, stratify=False)

    (warning,) = trained.warnings
    assert warning.column == "y"
    assert words in warning.message
    assert plain.warnings == ()
    assert trained.metrics == plain.metrics
    assert trained.profile == plain.profile


def test_folds_that_lack_a_class_come_with_a_warning_and_scikit_learns_scores() -> None:
    y = np.array((["a"] * 20 + ["b"] * 20 + ["c"] * 3) * 2, object)
    estimator = {"estimator": "logistic_regression", "scale": False}

    trained = fit(make_dataset(X[:86], y), cv=7, **estimator)
    enough = fit(make_dataset(X[:86], y), cv=6, **estimator)

    with pytest.warns(UserWarning, match="least populated class"):
        expected = model_selection.cross_val_score(trained.estimator, X[:86], y, cv=7)
    assert_same(trained.metrics["cross_validation"]["scores"], expected.tolist())
    (warning,) = trained.warnings
    assert warning.column == "y"
    assert (
        warning.message
        == "has fewer than 7 rows of class 'c': some of the 7 folds have no such row"
    )
    assert enough.warnings == ()


def measure(
    y: Sequence[Any],
    predicted: Sequence[Any],
    probabilities: Any,
    classes: Sequence[Any],
    fitted_y: Sequence[Any],
) -> dict[str, Any]:
    """Measure labels that are given as lists."""
    columns = [np.array(labels, dtype=object) for labels in (y, predicted, fitted_y)]
    scores = None if probabilities is None else np.array(probabilities, dtype=np.float64)
    return measure_classification(*columns[:2], scores, classes, columns[2])


def test_a_classifier_without_probabilities_has_the_metrics_of_its_labels() -> None:
    y, predicted, fitted = ["a", "b", "b", "c"], ["a", "b", "c", "c"], ["b", "a", "c", "b"]

    found = measure(y, predicted, None, ["a", "b", "c"], fitted)

    assert_same(found, expect_classification(y, predicted, None, ["a", "b", "c"], fitted))


def test_rows_of_a_class_that_was_not_fitted_count_as_wrong() -> None:
    sure = [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]

    found = measure(["a", "b", "new"], ["a", "b", "b"], sure, ["a", "b"], ["b", "b", "a"])

    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"] == pytest.approx(2 / 3)
    assert found["precision"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["by_class"]["new"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert found["confusion_matrix"]["counts"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert found["baseline"]["balanced_accuracy"] == pytest.approx(1 / 3)
    for name in ("roc_auc", "average_precision", "log_loss", "brier_score"):
        assert found[name] is None


def test_rows_without_one_of_the_fitted_classes_have_no_area() -> None:
    y, predicted, probabilities = ["b", "b"], ["b", "a"], [[0.2, 0.8], [0.6, 0.4]]

    found = measure(y, predicted, probabilities, ["a", "b"], ["a", "a", "b"])

    assert (found["roc_auc"], found["average_precision"]) == (None, None)
    assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.4]).mean())
    assert found["brier_score"] == pytest.approx(np.square([0.2, 0.6]).mean())
    assert found["balanced_accuracy"] == 0.5
    assert found["recall"] == pytest.approx((0 + 0.5) / 2)
    assert found["by_class"]["a"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert found["baseline"] == {"label": "a", "accuracy": 0, "balanced_accuracy": 0}


def test_probabilities_that_are_not_finite_are_not_measured() -> None:
    beyond = [[np.nan, np.nan], [0.5, 0.5]]

    found = measure(["a", "b"], ["a", "b"], beyond, ["a", "b"], ["a", "b"])

    assert found["accuracy"] == 1
    assert (found["log_loss"], found["roc_auc"], found["brier_score"]) == (None, None, None)


def test_the_baseline_of_classes_that_are_equally_frequent_takes_the_first() -> None:
    found = measure(["a", "b"], ["a", "b"], None, ["a", "b"], ["b", "a", "a", "b"])

    assert found["baseline"] == {"label": "a", "accuracy": 0.5, "balanced_accuracy": 0.5}


@pytest.mark.parametrize("more", [0, 1])
def test_many_classes_have_metrics_and_no_confusion_matrix(more: int) -> None:
    classes = list(range(MOST_MATRIX_CLASSES + more))
    certain = np.eye(len(classes))

    found = measure(classes, classes, certain, classes, classes)

    assert found["roc_auc"] == found["average_precision"] == found["f1"] == 1
    assert (found["confusion_matrix"] is None) == (found["by_class"] is None) == bool(more)


NOTHING = {
    "mse": None,
    "rmse": None,
    "mae": None,
    "r2_score": None,
    "mape": None,
    "median_absolute_error": None,
}


def test_predictions_that_are_not_finite_leave_the_baseline_alone() -> None:
    y, fitted = np.array([1.0, 3.0]), np.array([2.0, 2.0])

    found = measure_regression(y, np.array([1.0, np.inf]), fitted)

    assert found == {**NOTHING, "baseline": {"mse": 1, "mae": 1, "r2_score": 0}}


def test_metrics_beyond_float64_are_none() -> None:
    y, fitted = np.array([1e200, -1e200]), np.array([1e308, 1e308])

    found = measure_regression(y, np.array([0.0, 0.0]), fitted)

    absolute = {"mae": 1e200, "mape": 1, "median_absolute_error": 1e200}
    assert found == {
        **NOTHING,
        **absolute,
        "baseline": {"mse": None, "mae": None, "r2_score": None},
    }


def test_the_relative_error_of_zeros_is_scikit_learns() -> None:
    y, predicted, fitted = np.array([0.0, 2.0, 4.0]), np.array([1e-3, 2.0, 5.0]), np.arange(3.0)

    found = measure_regression(y, predicted, fitted)

    assert_same(found, expect_regression(y, predicted, fitted))
