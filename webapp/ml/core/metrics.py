"""How good predictions are; a metric that is undefined is None, never NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from webapp.ml.core.datasets import Labels, Matrix, Vector

MOST_MATRIX_CLASSES = 100  # 1,000 would be a million counts in every answer about the version
REGRESSION_METRICS = ("mse", "rmse", "mae", "r2_score")


def measure_regression(y: Vector, predicted: Vector) -> dict[str, float | None]:
    """Return mse, rmse, mae and R² of predictions; both vectors are (n_rows,)."""
    from sklearn import metrics

    if not np.isfinite(predicted).all():
        return dict.fromkeys(REGRESSION_METRICS)
    with np.errstate(over="ignore", invalid="ignore"):
        mse = float(metrics.mean_squared_error(y, predicted))
        measured = {
            "mse": mse,
            "rmse": math.sqrt(mse),
            "mae": float(metrics.mean_absolute_error(y, predicted)),
            # R² compares with the spread of y, and one row has none.
            "r2_score": float(metrics.r2_score(y, predicted)) if len(y) > 1 else math.nan,
        }
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


def measure_classification(
    y: Labels, predicted: Labels, probabilities: Matrix, classes: Sequence[Any]
) -> dict[str, Any]:
    """Return accuracy, log loss, ROC AUC (of two classes) and the confusion matrix.

    y, predicted: (n_rows,); probabilities: (n_rows, n_classes) in the order of ``classes``.
    Log loss is undefined where y has a class that was not fitted, ROC AUC where it has not
    both. Row i, column j of the confusion matrix counts rows of class i that were taken for j;
    there is none for more than ``MOST_MATRIX_CLASSES``.
    """
    from sklearn import metrics

    fitted, seen = list(classes), set(y.tolist())
    labels = sorted({*fitted, *seen})
    measured: dict[str, Any] = {
        "accuracy": float(metrics.accuracy_score(y, predicted)),
        "log_loss": None,
        "roc_auc": None,
        "confusion_matrix": None,
    }
    if seen <= set(fitted):
        measured["log_loss"] = float(metrics.log_loss(y, probabilities, labels=fitted))
    if seen == set(fitted) and len(fitted) == 2:
        area = metrics.roc_auc_score(y == fitted[1], probabilities[:, 1])
        measured["roc_auc"] = float(area)
    if len(labels) <= MOST_MATRIX_CLASSES:
        counts = metrics.confusion_matrix(y, predicted, labels=labels).tolist()
        measured["confusion_matrix"] = {"labels": labels, "counts": counts}
    return measured
