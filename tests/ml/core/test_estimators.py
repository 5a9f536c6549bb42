"""The catalogue: every row can be built from its own defaults, and nothing else gets in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import config
from webapp.errors import Faults, InvalidInput
from webapp.ml.core.estimators import CATALOGUE, DEFAULT_ESTIMATOR, Estimator, resolve_params

LINEAR_REGRESSION = CATALOGUE["linear_regression"]


def test_the_default_estimator_is_linear_regression() -> None:
    assert CATALOGUE[DEFAULT_ESTIMATOR] is LINEAR_REGRESSION


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)
def test_every_row_describes_itself(row: Estimator) -> None:
    assert CATALOGUE[row.name] is row
    assert row.task in ("regression", "classification")
    assert row.summary.endswith(".")
    names = [parameter.name for parameter in row.parameters]
    assert len(set(names)) == len(names)
    for parameter in row.parameters:
        assert type(parameter.default) is parameter.type
        assert parameter.help.endswith(".")


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)
def test_every_row_builds_an_estimator_that_learns(row: Estimator) -> None:
    X = np.random.RandomState(0).randn(20, 2)

    estimator = row.build(**resolve_params(row, {})).fit(X, X[:, 0])

    assert estimator.predict(X).shape == (20,)


def test_parameters_reach_the_estimator() -> None:
    params = resolve_params(LINEAR_REGRESSION, {"fit_intercept": False, "positive": True})

    estimator = LINEAR_REGRESSION.build(**params)

    assert type(estimator) is LinearRegression
    assert estimator.fit_intercept is False
    assert estimator.positive is True


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({}, {"fit_intercept": True, "positive": False}),
        ({"positive": True}, {"fit_intercept": True, "positive": True}),
        ({"positive": True, "fit_intercept": False}, {"fit_intercept": False, "positive": True}),
    ],
)
def test_defaults_fill_in_what_is_not_given(
    given: Mapping[str, object], resolved: Mapping[str, object]
) -> None:
    assert list(resolve_params(LINEAR_REGRESSION, given).items()) == list(resolved.items())


@pytest.mark.parametrize(
    ("given", "faults"),
    [
        (
            {"alpha": 1.0},
            {"alpha": ["is no parameter of linear_regression; it has fit_intercept, positive"]},
        ),
        ({"fit_intercept": 1}, {"fit_intercept": ["must be of type bool"]}),
        ({"fit_intercept": "true"}, {"fit_intercept": ["must be of type bool"]}),
        ({"positive": None}, {"positive": ["must be of type bool"]}),
        (
            {"positive": [], "copy_X": False},
            {
                "positive": ["must be of type bool"],
                "copy_X": ["is no parameter of linear_regression; it has fit_intercept, positive"],
            },
        ),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(
    given: Mapping[str, object], faults: Faults
) -> None:
    with pytest.raises(InvalidInput) as raised:
        resolve_params(LINEAR_REGRESSION, given)

    assert raised.value.faults == {"params": faults}


def test_the_catalogue_can_be_read_without_importing_scikit_learn() -> None:
    code = "import sys, webapp.ml.core.estimators; sys.exit('sklearn' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=config.ROOT).returncode == 0
