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
from sklearn.preprocessing import StandardScaler

import config
from webapp.errors import Faults, InvalidInput
from webapp.ml.core.estimators import (
    CATALOGUE,
    DEFAULT_ESTIMATOR,
    Estimator,
    Parameter,
    build_estimator,
    describe_estimator,
    find_by_type,
    load_class,
    params_schema,
    resolve_params,
    split_pipeline,
)

LINEAR_REGRESSION = CATALOGUE["linear_regression"]
ROWS = pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)

# What a value asks of the other parameters: see `Conflict`.
COMPANIONS: Mapping[tuple[str, object], dict[str, object]] = {
    ("l1_ratio", 1): {"solver": "saga"},
    ("loss", "quantile"): {"quantile": 0.5},
    ("quantile", 0.001): {"loss": "quantile"},
    ("quantile", 0.999): {"loss": "quantile"},
}
FEW_TREES: dict[str, object] = {"n_estimators": 3}
FEW_STEPS: dict[str, object] = {"max_iter": 3}  # of boosting; those of linear models cost nothing


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
    if parameter.minimum is not None:
        yield math.ulp(0) if parameter.exclusive_minimum else parameter.minimum
        yield parameter.maximum


EDGES = [
    pytest.param(row, parameter, value, id=f"{row.name}-{parameter.name}-{value}")
    for row in CATALOGUE.values()
    for parameter in row.parameters
    for value in edge_values(parameter)
]


def refuse(row: Estimator, given: Mapping[str, object]) -> Faults:
    """Return the faults of parameters that must be refused."""
    with pytest.raises(InvalidInput) as raised:
        resolve_params(row, given)
    assert isinstance(raised.value.faults, Mapping)
    assert list(raised.value.faults) == ["params"]
    return raised.value.faults["params"]


def test_the_catalogue_has_six_regressors_and_three_classifiers() -> None:
    tasks = [row.task for row in CATALOGUE.values()]

    assert CATALOGUE[DEFAULT_ESTIMATOR] is next(iter(CATALOGUE.values())) is LINEAR_REGRESSION
    assert tasks == ["regression"] * 6 + ["classification"] * 3


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
        assert parameter.default == theirs[parameter.name].default, parameter.name
        assert type(parameter.default) is type(theirs[parameter.name].default), parameter.name
        if parameter.type in ("integer", "number"):
            assert parameter.minimum is not None, parameter.name
            assert parameter.maximum is not None, parameter.name


def test_a_type_that_is_not_in_the_catalogue_is_not_found() -> None:
    assert find_by_type("sklearn.svm._classes.SVC") is None


@ROWS
@pytest.mark.parametrize("scale", [False, True], ids=["as it is", "scaled"])
def test_every_row_builds_the_estimator_with_the_seed(row: Estimator, scale: bool) -> None:
    model = build_estimator(row, resolve_params(row, {}), random_state=7, scale=scale)

    final = split_pipeline(model)[1]
    assert type(final) is load_class(row)
    assert final.get_params().get("random_state") == (7 if row.seeded else None)
    assert final.get_params().get("n_jobs") is None
    if scale:
        assert [name for name, _ in model.steps] == ["scale", "estimator"]
        assert type(model.steps[0][1]) is StandardScaler


@pytest.mark.parametrize(
    ("row", "parameter", "value"),
    # Thousands of boosting steps take minutes, and do nothing that a few do not.
    [edge for edge in EDGES if not str(edge.id).endswith("-max_iter-2000")],
)
def test_every_row_fits_at_each_limit(row: Estimator, parameter: Parameter, value: object) -> None:
    known = {known.name for known in row.parameters}
    few = FEW_TREES | (FEW_STEPS if "boosting" in row.name else {})
    companions = few | COMPANIONS.get((parameter.name, value), {}) | {parameter.name: value}
    given = {name: companions[name] for name in companions if name in known}
    X, y = make_rows(row.task)

    with warnings.catch_warnings():
        # scikit-learn advises against a few of them: no penalty, one iteration, no rows.
        warnings.simplefilter("ignore")
        model = build_estimator(row, resolve_params(row, given), random_state=0, scale=False)
        model.fit(X, y)

    assert split_pipeline(model)[1].get_params()[parameter.name] == value
    if row.task == "regression":
        assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize(("row", "parameter", "value"), EDGES)
def test_what_is_just_beyond_a_limit_is_refused(
    row: Estimator, parameter: Parameter, value: object
) -> None:
    if value is None or isinstance(value, (bool, str)):
        beyond: object = "no such word"
    elif value == parameter.maximum:
        beyond = value + 1 if parameter.type == "integer" else math.nextafter(value, math.inf)
    elif parameter.exclusive_minimum:
        beyond = 0
    else:
        low = parameter.minimum or 0
        beyond = int(low) - 1 if parameter.type == "integer" else math.nextafter(low, -math.inf)

    faults = refuse(row, {parameter.name: beyond})

    assert isinstance(faults, Mapping)
    assert list(faults) == [parameter.name]


def test_parameters_reach_the_estimator_and_defaults_fill_in_the_rest() -> None:
    params = resolve_params(LINEAR_REGRESSION, {"positive": True})

    estimator = build_estimator(LINEAR_REGRESSION, params, random_state=0, scale=False)

    assert list(params.items()) == [("fit_intercept", True), ("positive", True)]
    assert (estimator.fit_intercept, estimator.positive) == (True, True)


def test_a_whole_number_is_a_number() -> None:
    assert type(resolve_params(CATALOGUE["ridge"], {"alpha": 2})["alpha"]) is float


ALPHA = {"alpha": "must be a number from 0 to 1000000000000"}
UNKNOWN = "is no parameter of linear_regression; it has fit_intercept, positive"
QUANTILE = {"quantile": 'must be given when loss is "quantile", and only then'}


@pytest.mark.parametrize(
    ("name", "given", "faults"),
    [
        ("linear_regression", {"alpha": 1.0}, {"alpha": UNKNOWN}),
        ("linear_regression", {"fit_intercept": 1}, {"fit_intercept": "must be a boolean"}),
        ("linear_regression", {"positive": None}, {"positive": "must be a boolean"}),
        (
            "linear_regression",
            {"positive": [], "copy_X": False},
            {"positive": "must be a boolean", "copy_X": UNKNOWN},
        ),
        *(
            ("ridge", {"alpha": value}, ALPHA)
            for value in (True, math.inf, math.nan, 10**400, "1", {})
        ),
        (
            "random_forest",
            {"n_estimators": 10.0, "max_depth": 0, "max_features": "all"},
            {
                "n_estimators": "must be an integer from 1 to 1000",
                "max_depth": "must be an integer from 1 to 64 or null",
                "max_features": 'must be a number above 0 and up to 1 or one of "sqrt", "log2"',
            },
        ),
        (
            "hist_gradient_boosting",
            {"early_stopping": "yes"},
            {"early_stopping": 'must be a boolean or "auto"'},
        ),
        (
            "logistic_regression",
            {"class_weight": 1},
            {"class_weight": 'must be "balanced" or null'},
        ),
        ("lasso", {"selection": None}, {"selection": 'must be one of "cyclic", "random"'}),
        (
            "ridge",
            {"positive": True, "solver": "svd"},
            {"solver": 'must be "auto" when positive is true'},
        ),
        (
            "random_forest",
            {"bootstrap": False, "max_samples": 0.5},
            {"max_samples": "must be null when bootstrap is false"},
        ),
        ("hist_gradient_boosting", {"loss": "quantile"}, QUANTILE),
        ("hist_gradient_boosting", {"quantile": 0.5}, QUANTILE),
        (
            "logistic_regression",
            {"l1_ratio": 0.5},
            {"l1_ratio": 'must be 0 unless solver is "saga"'},
        ),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(
    name: str, given: Mapping[str, object], faults: Mapping[str, str]
) -> None:
    assert refuse(CATALOGUE[name], given) == {key: [words] for key, words in faults.items()}


@ROWS
def test_the_schema_accepts_what_the_check_accepts(row: Estimator) -> None:
    described = describe_estimator(row)
    alone = replace(row, conflict=None)
    odd = ("no such word", [], {}, -1e300, 1e300, 0, 0.5, 3, True, None)

    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert (described["name"], described["task"]) == (row.name, row.task)
    for parameter in row.parameters:
        schema = described["parameters"][parameter.name]
        assert schema["default"] == parameter.default
        for value in (parameter.default, *edge_values(parameter), *odd):
            try:
                resolve_params(alone, {parameter.name: value})
                accepted = True
            except InvalidInput:
                accepted = False
            valid = Draft202012Validator(schema).is_valid(value)
            assert valid == accepted, (parameter.name, value)
        assert Draft202012Validator(schema).is_valid(parameter.default)


def test_the_schema_of_all_parameters_takes_those_of_any_one_estimator() -> None:
    validator = Draft202012Validator(params_schema())
    Draft202012Validator.check_schema(params_schema())

    assert validator.is_valid({})
    assert validator.is_valid({"n_estimators": 10, "max_features": "sqrt"})
    assert validator.is_valid({"learning_rate": 0.1, "early_stopping": "auto"})
    assert not validator.is_valid({"n_estimators": 0})
    assert not validator.is_valid({"n_estimators": 10, "learning_rate": 0.1})
    assert not validator.is_valid({"n_jobs": 2})


def test_the_catalogue_can_be_read_without_importing_scikit_learn() -> None:
    code = "import sys, webapp.ml.core.estimators; sys.exit('sklearn' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=config.ROOT).returncode == 0
