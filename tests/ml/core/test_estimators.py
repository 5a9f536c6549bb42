"""The catalogue: every row fits at its defaults and at each limit, and nothing else gets in."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from sklearn.datasets import load_diabetes, load_iris

import config
from tests.ml.core.test_scoring import OWN_CLASSIFIERS, OWN_REGRESSORS, assert_equal
from webapp.errors import Faults, InvalidInput
from webapp.ml.core.estimators import (
    CATALOGUE,
    MOST_INTEGERS,
    Estimator,
    Parameter,
    build_estimator,
    check_range,
    describe_estimator,
    find_by_type,
    load_class,
    params_schema,
    resolve_params,
)
from webapp.ml.core.metrics import profile_features
from webapp.ml.core.scoring import score_by_estimator
from webapp.ml.core.validation import make_scorer

ROWS = pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)

# What a value asks of the other parameters: see `Conflict`.
COMPANIONS: Mapping[tuple[str, object], dict[str, object]] = {
    ("l1_ratio", 1): {"solver": "saga"},
    ("max_samples", math.ulp(0)): {"bootstrap": True},
    ("max_samples", 1): {"bootstrap": True},
    ("loss", "quantile"): {"quantile": 0.5},
    ("quantile", 0.001): {"loss": "quantile"},
    ("quantile", 0.999): {"loss": "quantile"},
    ("penalty", "l1"): {"loss": "squared_hinge"},
}
FEW_TREES: dict[str, object] = {"n_estimators": 3}
FEW_STEPS: dict[str, object] = {"max_iter": 3}  # of boosting; those of linear models cost nothing
OWN_SCORERS = {type(own) for own in (*OWN_REGRESSORS, *OWN_CLASSIFIERS)}
NO_LIMIT = -1  # scikit-learn's default for the iterations of libsvm; ours is in the catalogue
MORE_NEIGHBORS_THAN_ROWS = ("n_neighbors", 1000)


def make_rows(task: str, count: int = 24) -> tuple[Any, Any]:
    """Return a few rows of a data set that fits the task, classes mixed."""
    X, y = load_diabetes(return_X_y=True) if task == "regression" else load_iris(return_X_y=True)
    chosen = np.random.RandomState(0).permutation(len(y))[:count]
    return X[chosen], y[chosen]


def edge_values(parameter: Parameter) -> Iterator[object]:
    """Yield the values at the limits of a parameter, and each of its words."""
    yield from parameter.choices
    if parameter.nullable:
        yield None
    if parameter.type == "boolean":
        yield from (False, True)
    if parameter.minimum is not None and parameter.type != "integers":
        yield math.ulp(0) if parameter.exclusive_minimum else parameter.minimum
        yield parameter.maximum
    if parameter.type == "integers":
        yield from ([parameter.minimum], [parameter.minimum] * MOST_INTEGERS, [parameter.maximum])


EDGES = [
    pytest.param(row, parameter, value, id=f"{row.name}-{parameter.name}-{value}")
    for row in CATALOGUE.values()
    for parameter in row.parameters
    for value in edge_values(parameter)
    if (parameter.name, value) != MORE_NEIGHBORS_THAN_ROWS
]


def refuse(row: Estimator, given: Mapping[str, object]) -> Faults:
    """Return the faults of parameters that must be refused."""
    with pytest.raises(InvalidInput) as raised:
        resolve_params(row, given)
    assert isinstance(raised.value.faults, Mapping)
    assert list(raised.value.faults) == ["params"]
    return raised.value.faults["params"]


@ROWS
def test_every_row_describes_its_class_as_scikit_learn_and_skops_do(row: Estimator) -> None:
    cls = load_class(row)
    theirs = inspect.signature(cls).parameters
    names = [parameter.name for parameter in row.parameters]

    assert row.type_name == f"{cls.__module__}.{cls.__qualname__}"
    assert find_by_type(row.type_name) is CATALOGUE[row.name] is row
    assert row.summary.endswith(".")
    assert row.seeded == ("random_state" in theirs)
    assert len(set(names)) == len(names)
    assert not {"n_jobs", "random_state", "verbose", "warm_start"} & set(names)
    for parameter in row.parameters:
        assert parameter.help.endswith(".")
        if theirs[parameter.name].default == NO_LIMIT:
            continue
        assert parameter.default == theirs[parameter.name].default, parameter.name
        assert type(parameter.default) is type(theirs[parameter.name].default), parameter.name
        if parameter.type in ("integer", "integers", "number"):
            assert parameter.minimum is not None, parameter.name
            assert parameter.maximum is not None, parameter.name


@pytest.mark.parametrize(
    ("row", "parameter", "value"),
    # Thousands of boosting steps take minutes, and do nothing that a few do not.
    [edge for edge in EDGES if not str(edge.id).endswith("-max_iter-2000")],
)
def test_every_row_fits_and_scores_at_each_limit(
    row: Estimator, parameter: Parameter, value: object
) -> None:
    known = {known.name for known in row.parameters}
    few = FEW_TREES | (FEW_STEPS if "boosting" in row.name else {})
    needed = {} if parameter.type == "integers" else COMPANIONS.get((parameter.name, value), {})
    companions = few | needed | {parameter.name: value}
    given = {name: companions[name] for name in companions if name in known}
    X, y = make_rows(row.task)

    with warnings.catch_warnings():
        # scikit-learn advises against a few of them: no penalty, one iteration, no rows.
        warnings.simplefilter("ignore")
        model = build_estimator(row, resolve_params(row, given), random_state=0, scale=False)
        model.fit(X, y)

    assert model.get_params()[parameter.name] == value
    scorer = make_scorer(model, profile_features(X))
    assert (scorer.func is score_by_estimator) == (type(model) in OWN_SCORERS)
    for n_rows in (1, 5, len(X)):
        assert_equal(scorer(X[:n_rows]), model, X[:n_rows])


def test_a_whole_number_is_a_number() -> None:
    assert type(resolve_params(CATALOGUE["ridge"], {"alpha": 2})["alpha"]) is float


LINEAR, LOGISTIC = "linear_regression", "logistic_regression"
BOOSTING = "hist_gradient_boosting"
ALPHA = {"alpha": "must be a number from 0 to 1000000000000"}
UNKNOWN = "is no parameter of linear_regression; it has fit_intercept, positive"
BOOLEANS = dict.fromkeys(("fit_intercept", "positive"), "must be a boolean")
SOLVER = {"solver": 'must be "auto" when positive is true'}
FOREST = {
    "n_estimators": "must be an integer from 1 to 1000",
    "max_depth": "must be an integer from 1 to 64 or null",
    "max_features": 'must be a number above 0 and up to 1 or one of "sqrt", "log2"',
}
SAMPLES = {"max_samples": "must be null when bootstrap is false"}
LAYERS = {"hidden_layer_sizes": "must be a list of 1 to 5 integers from 1 to 1000"}
QUANTILE = {"quantile": 'must be given when loss is "quantile", and only then'}


@pytest.mark.parametrize(
    ("name", "given", "faults"),
    [
        (LINEAR, {"alpha": 1.0}, {"alpha": UNKNOWN}),
        (LINEAR, {"fit_intercept": 1, "positive": None}, BOOLEANS),
        *(("ridge", {"alpha": value}, ALPHA) for value in (True, math.nan, 10**400, "1", {})),
        ("random_forest", {"n_estimators": 10.0, "max_depth": 0, "max_features": "all"}, FOREST),
        (BOOSTING, {"early_stopping": "yes"}, {"early_stopping": 'must be a boolean or "auto"'}),
        (LOGISTIC, {"class_weight": 1}, {"class_weight": 'must be "balanced" or null'}),
        ("lasso", {"selection": None}, {"selection": 'must be one of "cyclic", "random"'}),
        ("ridge", {"positive": True, "solver": "svd"}, SOLVER),
        ("random_forest", {"bootstrap": False, "max_samples": 0.5}, SAMPLES),
        (BOOSTING, {"loss": "quantile"}, QUANTILE),
        (BOOSTING, {"quantile": 0.5}, QUANTILE),
        *(
            ("mlp", {"hidden_layer_sizes": value}, LAYERS)
            for value in (100, [], [1] * 6, [0], [1001], [1.5], [True], ["9"], [[9]], None)
        ),
        (LOGISTIC, {"l1_ratio": 0.5}, {"l1_ratio": 'must be 0 unless solver is "saga"'}),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(
    name: str, given: Mapping[str, object], faults: Mapping[str, str]
) -> None:
    assert refuse(CATALOGUE[name], given) == {key: [words] for key, words in faults.items()}


@pytest.mark.parametrize("scale", [1e300, 1e-300, 5e-323, np.nan])
def test_rows_that_a_solver_never_ends_on_are_refused(scale: float) -> None:
    X = make_rows("classification")[0]
    row = CATALOGUE["linear_svm_classifier"]

    check_range(row, X)
    check_range(row, X * 0)
    check_range(CATALOGUE["ridge"], X * scale)
    if np.isnan(scale):  # what is missing is imputed
        check_range(row, np.where(X > 3, X, scale))
        return
    with pytest.raises(InvalidInput, match="which linear_svm_classifier cannot fit"):
        check_range(row, X * scale)


def beyond(parameter: Parameter) -> Iterator[object]:
    """Yield values just beyond the limits of a parameter, and others that it does not take."""
    yield from ("no such word", [], {}, -1e300, 1e300)
    if parameter.minimum is None:
        return
    if parameter.type == "integers":
        yield from ([0], [1001], [1] * (MOST_INTEGERS + 1), [1, "2"], 3)
        return
    low, high = parameter.minimum, parameter.maximum
    if parameter.type == "integer":
        yield from (low - 1, high + 1)
    else:
        yield low if parameter.exclusive_minimum else math.nextafter(low, -math.inf)
        yield math.nextafter(high, math.inf)


@ROWS
def test_check_and_schema_accept_what_is_within_the_limits_only(row: Estimator) -> None:
    described = describe_estimator(row)
    alone = replace(row, conflict=None)

    def is_accepted(name: str, value: object) -> bool:
        valid: bool = Draft202012Validator(described["parameters"][name]).is_valid(value)
        if valid:
            resolve_params(alone, {name: value})
        else:
            assert list(refuse(alone, {name: value})) == [name]
        return valid

    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert (described["name"], described["task"]) == (row.name, row.task)
    for known in row.parameters:
        default = list(known.default) if known.type == "integers" else known.default
        assert described["parameters"][known.name]["default"] == default
        for value in (default, *edge_values(known)):
            assert is_accepted(known.name, value), (known.name, value)
        for value in beyond(known):
            assert not is_accepted(known.name, value), (known.name, value)
        for value in (0, 0.5, 3, True, None):
            is_accepted(known.name, value)  # or not: check and schema must agree


def test_the_schema_of_all_parameters_takes_those_of_any_one_estimator() -> None:
    validator = Draft202012Validator(params_schema())
    Draft202012Validator.check_schema(params_schema())

    for given in ({}, {"n_estimators": 10, "max_features": "sqrt"}, {"early_stopping": "auto"}):
        assert validator.is_valid(given)
    for given in ({"n_estimators": 0}, {"n_estimators": 9, "max_bins": 9}, {"n_jobs": 2}):
        assert not validator.is_valid(given)


def test_the_catalogue_can_be_read_without_importing_scikit_learn() -> None:
    code = "import sys, webapp.ml.core.estimators; sys.exit('sklearn' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=config.ROOT).returncode == 0
