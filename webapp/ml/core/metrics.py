"""What is measured: how good predictions are, and the rows that a model learnt from.

A figure that is undefined or beyond float64 is None, never NaN.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.ml.core.datasets import Dataset, Labels, Matrix, Vector

BLOCK_ROWS = 2**14
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


def digest_dataset(dataset: Dataset) -> str:
    """Return the SHA-256 of names, X and y: the same for the same rows, whatever they came in."""
    sha = hashlib.sha256()
    for name in dataset.feature_names:
        sha.update(name.encode() + b"\0")
    sha.update(np.ascontiguousarray(dataset.X).astype("<f8", copy=False).data)
    if dataset.y.dtype.kind in "fi":
        sha.update(np.ascontiguousarray(dataset.y).data)
    else:
        sha.update("\0".join(dataset.y.tolist()).encode())
    return sha.hexdigest()


def profile_features(
    X: Matrix, mask: NDArray[np.bool_] | None = None
) -> dict[str, list[float | None]]:
    """Return mean, std, min and max by feature of X: (n_rows, n_features), as JSON values.

    Of the rows that ``mask`` names, or of all. std is the standard deviation of the sample
    (n − 1), 0 for a single row; what is beyond float64 is None.
    """
    # Blocks that stay in the cache take 25 ms for 800,000 × 10 rows; whole columns take 55. Their
    # sums of squares are added as Chan, Golub and LeVeque do (The American Statistician, 1983).
    parts = []
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(X), BLOCK_ROWS):
            rows = X[start : start + BLOCK_ROWS]
            if mask is not None:
                rows = rows.compress(mask[start : start + BLOCK_ROWS], axis=0)
            block = np.ascontiguousarray(rows.T)
            if n := block.shape[1]:
                bounds = (block.min(axis=1), block.max(axis=1))
                parts.append((n, block.mean(axis=1), n * block.var(axis=1), *bounds))
        counts, means, squares, lows, highs = map(np.array, zip(*parts, strict=True))
        n_rows = counts.sum()
        mean = counts @ means / n_rows
        variance = (squares.sum(axis=0) + counts @ (means - mean) ** 2) / max(n_rows - 1, 1)
    found = {
        "mean": mean,
        "std": np.sqrt(variance),
        "min": lows.min(axis=0),
        "max": highs.max(axis=0),
    }
    return {
        name: [value if np.isfinite(value) else None for value in values.tolist()]
        for name, values in found.items()
    }
