"""What is known of the rows that a model learnt from: their digest, and each feature's range."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from webapp.ml.core.datasets import Dataset, Matrix, Vector


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


def profile_features(X: Matrix) -> dict[str, list[Any]]:
    """Return the profile of the rows X: (n_rows, n_features)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return describe_profile(
            mean=X.mean(axis=0),
            # Column by column: all at once would take as much memory as X again.
            std=np.array([_spread(column) for column in X.T]),
            minimum=X.min(axis=0),
            maximum=X.max(axis=0),
        )


def describe_profile(
    *, mean: Vector, std: Vector, minimum: Vector, maximum: Vector
) -> dict[str, list[Any]]:
    """Return mean, spread, minimum and maximum by feature, each (n_features,), as JSON values.

    The spread is the standard deviation of the sample (n − 1), 0 for a single row; what is
    beyond float64 is None.
    """
    columns = {"mean": mean, "std": std, "min": minimum, "max": maximum}
    return {
        name: [value if np.isfinite(value) else None for value in column.tolist()]
        for name, column in columns.items()
    }


def _spread(column: Vector) -> float:
    return float(column.std(ddof=1)) if len(column) > 1 else 0.0
