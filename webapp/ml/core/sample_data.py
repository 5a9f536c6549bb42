"""Seeded synthetic data with known coefficients, to try the service with."""

from __future__ import annotations

import numpy as np

from webapp.ml.core.datasets import Dataset, default_feature_names

COEFFICIENTS = (2.0, 3.0, -1.0)
DESCRIPTION = "y = 2*x1 + 3*x2 - x3 + noise"


def make_sample_data(n_samples: int = 100, noise: float = 0.1, seed: int = 42) -> Dataset:
    """Return ``y = 2*x1 + 3*x2 - x3 + noise`` on standard normal features.

    X: (n_samples, 3), y: (n_samples,); ``noise`` is the standard deviation of the noise. The
    draws come in this order from NumPy's legacy generator, whose stream is frozen: the same
    arguments give the same numbers with every version of NumPy.
    """
    random = np.random.RandomState(seed)
    X = random.randn(n_samples, len(COEFFICIENTS))
    # The noise-free part is written out: a matrix product may sum in another order.
    y = 2 * X[:, 0] + 3 * X[:, 1] - X[:, 2] + random.randn(n_samples) * noise
    return Dataset(X, y, default_feature_names(X.shape[1]))
