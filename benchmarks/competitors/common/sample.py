"""The seeded rows that every service learns from and is asked about, and how they are fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

N_FEATURES = 10


def make_sample() -> tuple[Any, Any]:
    """Return the service's own sample data, X: (100, 3) and y: (100,)."""
    random = np.random.RandomState(42)
    X = random.randn(100, 3)
    return X, 2 * X[:, 0] + 3 * X[:, 1] - X[:, 2] + random.randn(100) * 0.1


def make_rows(n_rows: int = 1_000, seed: int = 0) -> tuple[Any, Any]:
    """Return X: (n_rows, 10) and y: (n_rows,), a linear function of it with some noise."""
    random = np.random.RandomState(seed)
    X = random.randn(n_rows, N_FEATURES)
    return X, X @ np.arange(1.0, N_FEATURES + 1) + random.randn(n_rows)


def fit(X: Any, y: Any) -> tuple[LinearRegression, Any, Any]:
    """Return a model fitted on four fifths of the rows, and the rows held out."""
    fit_X, test_X, fit_y, test_y = train_test_split(X, y, test_size=0.2, random_state=42)
    return LinearRegression().fit(fit_X, fit_y), test_X, test_y
