"""The metrics of a training as scikit-learn's own functions give them, called on plain labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.dummy import DummyClassifier, DummyRegressor

AVERAGE = {"average": "macro", "zero_division": 0}


def expect_regression(y: Any, predicted: Any, fitted_y: Any) -> dict[str, Any]:
    """Return the metrics of predictions; all are (n_rows,)."""
    rows = np.zeros((len(fitted_y), 1))
    mean = DummyRegressor().fit(rows, fitted_y).predict(np.zeros((len(y), 1)))
    return {
        "mse": metrics.mean_squared_error(y, predicted),
        "rmse": metrics.root_mean_squared_error(y, predicted),
        "mae": metrics.mean_absolute_error(y, predicted),
        "r2_score": metrics.r2_score(y, predicted),
        "mape": metrics.mean_absolute_percentage_error(y, predicted),
        "median_absolute_error": metrics.median_absolute_error(y, predicted),
        "baseline": {
            "mse": metrics.mean_squared_error(y, mean),
            "mae": metrics.mean_absolute_error(y, mean),
            "r2_score": metrics.r2_score(y, mean),
        },
    }


def expect_classification(
    y: Any, predicted: Any, probabilities: Any, classes: Any, fitted_y: Any
) -> dict[str, Any]:
    """Return the metrics of labels (n_rows,); the probabilities are (n_rows, n_classes) or None.

    y has all classes that were fitted, and no other.
    """
    rows = np.zeros((len(fitted_y), 1))
    dummy = DummyClassifier(strategy="most_frequent").fit(rows, fitted_y)
    majority = dummy.predict(np.zeros((len(y), 1)))
    by_class = metrics.classification_report(y, predicted, output_dict=True, zero_division=0)
    expected = {
        "accuracy": metrics.accuracy_score(y, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, predicted),
        "precision": metrics.precision_score(y, predicted, **AVERAGE),
        "recall": metrics.recall_score(y, predicted, **AVERAGE),
        "f1": metrics.f1_score(y, predicted, **AVERAGE),
        "roc_auc": None,
        "average_precision": None,
        "log_loss": None,
        "brier_score": None,
        "confusion_matrix": {
            "labels": list(classes),
            "rows": "actual",
            "columns": "predicted",
            "counts": metrics.confusion_matrix(y, predicted, labels=classes).tolist(),
        },
        "by_class": {
            str(label): {
                "precision": by_class[str(label)]["precision"],
                "recall": by_class[str(label)]["recall"],
                "f1": by_class[str(label)]["f1-score"],
                "support": by_class[str(label)]["support"],
            }
            for label in classes
        },
        "baseline": {
            "label": majority.tolist()[0],
            "accuracy": metrics.accuracy_score(y, majority),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, majority),
        },
    }
    if probabilities is None:
        return expected
    expected["log_loss"] = metrics.log_loss(y, probabilities, labels=classes)
    if len(classes) == 2:
        second = (np.equal(y, classes[1]), probabilities[:, 1])
        expected["roc_auc"] = metrics.roc_auc_score(*second)
        expected["average_precision"] = metrics.average_precision_score(*second)
        expected["brier_score"] = metrics.brier_score_loss(*second)
    else:
        expected["roc_auc"] = metrics.roc_auc_score(y, probabilities, multi_class="ovr")
        expected["average_precision"] = metrics.average_precision_score(y, probabilities)
    return expected


def assert_same(found: Any, expected: Any) -> None:
    """Compare metrics that may hold others: numbers to 1e-9, all else exactly."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert_same(found[name], value)
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    else:
        assert found == expected
