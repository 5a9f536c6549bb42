"""The sample data: frozen draws, and the reference numbers that follow from them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from webapp.ml.core.sample_data import DESCRIPTION, make_sample_data
from webapp.ml.core.training import TrainingSpec, train


def test_the_first_numbers_are_the_draws_of_the_frozen_generator() -> None:
    dataset = make_sample_data()

    # The first standard normal draws of RandomState(42), as NumPy has given them since 1.0.
    expected = [0.4967141530112327, -0.13826430117118466, 0.6476885381006925]
    assert dataset.X[0].tolist() == pytest.approx(expected, abs=1e-15)
    assert dataset.X.shape == (100, 3)
    assert dataset.y.shape == (100,)
    assert dataset.feature_names == ("x1", "x2", "x3")


@pytest.mark.parametrize(
    ("n_samples", "noise", "seed"), [(100, 0.1, 42), (1, 0.0, 0), (17, 2.5, 2**32 - 1)]
)
def test_features_are_drawn_first_and_the_noise_after_them(
    n_samples: int, noise: float, seed: int
) -> None:
    random = np.random.RandomState(seed)
    X = random.randn(n_samples, 3)
    errors = random.randn(n_samples) * noise

    dataset = make_sample_data(n_samples, noise, seed)

    assert np.array_equal(dataset.X, X)
    x1, x2, x3 = X.T
    assert np.array_equal(dataset.y, 2 * x1 + 3 * x2 - x3 + errors)
    assert DESCRIPTION == "y = 2*x1 + 3*x2 - x3 + noise"


def test_the_same_seed_gives_the_same_data_whatever_was_drawn_before() -> None:
    first = make_sample_data(seed=7)
    np.random.randn(10)

    second = make_sample_data(seed=7)

    assert np.array_equal(first.X, second.X)
    assert np.array_equal(first.y, second.y)
    assert not np.array_equal(first.X, make_sample_data(seed=8).X)


def test_the_reference_numbers_hold() -> None:
    trained = train(make_sample_data(), TrainingSpec(), clock=time.perf_counter)

    assert trained.metrics["mse"] == pytest.approx(0.00484193490254153, abs=1e-9)
    assert trained.metrics["r2_score"] == pytest.approx(0.9996142354857778, abs=1e-9)
    assert trained.estimator.predict([[1, 2, 3]])[0] == pytest.approx(4.960877268071006, abs=1e-9)
