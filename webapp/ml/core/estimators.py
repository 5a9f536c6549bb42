"""The catalogue of estimators: adding one is adding one row.

A row says what the estimator is for, which parameters a client may set and within which
limits, and where its class is found. Nothing of scikit-learn is imported before a model is
built.

Names and defaults of parameters are scikit-learn's own, so that a notebook and this service
mean the same by the same words. The limits are ours: they keep a single fit bounded, and
leave out values at which scikit-learn fails whatever the data. Never a parameter: ``n_jobs``
(a worker has one thread for a fit) and ``random_state`` (the training's seed is given to
every estimator that draws at random).
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from webapp.errors import MOST_FAULTS, InvalidInput
from webapp.ml.core import costs
from webapp.ml.core.costs import Cost, Size
from webapp.ml.errors import ArtifactUnusable

Task: TypeAlias = Literal["regression", "classification"]
ParameterType: TypeAlias = Literal["boolean", "integer", "number", "string"]
Schema: TypeAlias = dict[str, Any]
"""A JSON Schema, or a part of one (draft 2020-12, as OpenAPI 3.1 uses it)."""

LONGEST_VALUE = 1000
"""Characters or values of a parameter of an uploaded model: weights of 1,000 classes, say."""

_WORDS = {"boolean": "a boolean", "integer": "an integer", "number": "a number"}


@dataclass(frozen=True)
class Parameter:
    """A parameter that a client may set.

    Its values are those of ``type``, within ``minimum`` and ``maximum`` where given, and
    null where ``nullable``. A string is one of ``choices``; for any other type, ``choices``
    are words accepted beside it, such as ``"sqrt"`` beside a number.
    """

    name: str
    type: ParameterType
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    choices: tuple[str, ...] = ()
    nullable: bool = False


@dataclass(frozen=True)
class Estimator:
    """One row of the catalogue.

    ``module`` and ``class_name`` say where scikit-learn defines the class, which is also how
    skops names it. ``estimate_cost`` says what a fit takes, and ``lighter`` what to change
    where that is too much. ``find_conflicts`` maps a full set of parameters to messages by name,
    for values that are fine alone and not together. ``seeded``: takes a ``random_state``.
    """

    name: str
    task: Task
    summary: str
    module: str
    class_name: str
    parameters: tuple[Parameter, ...]
    estimate_cost: Callable[[Mapping[str, Any], Size], Cost]
    lighter: str = ""
    find_conflicts: Callable[[Mapping[str, Any]], dict[str, list[str]]] = lambda params: {}
    seeded: bool = True

    @property
    def type_name(self) -> str:
        """Return the full dotted name of the class, as skops writes it."""
        return f"{self.module}.{self.class_name}"

    @property
    def is_linear(self) -> bool:
        """Return whether a fitted one has an intercept and coefficients."""
        return self.module.startswith("sklearn.linear_model.")


def _ridge_conflicts(params: Mapping[str, Any]) -> dict[str, list[str]]:
    if params["positive"] and params["solver"] != "auto":
        return {"solver": ['must be "auto" when positive is true']}
    return {}


def _forest_conflicts(params: Mapping[str, Any]) -> dict[str, list[str]]:
    if params["max_samples"] is not None and not params["bootstrap"]:
        return {"max_samples": ["must be null when bootstrap is false"]}
    return {}


def _boosting_conflicts(params: Mapping[str, Any]) -> dict[str, list[str]]:
    if (params["loss"] == "quantile") != (params["quantile"] is not None):
        return {"quantile": ['must be given when loss is "quantile", and only then']}
    return {}


def _logistic_conflicts(params: Mapping[str, Any]) -> dict[str, list[str]]:
    if params["l1_ratio"] > 0 and params["solver"] != "saga":
        return {"l1_ratio": ['must be 0 unless solver is "saga"']}
    return {}


_FIT_INTERCEPT = Parameter("fit_intercept", "boolean", True, "Whether to fit a constant term.")
_POSITIVE = Parameter("positive", "boolean", False, "Whether coefficients must not be negative.")
_ALPHA = Parameter("alpha", "number", 1.0, "Strength of the penalty; 0 is none.", 0, 1e12)
_TOLERANCE = Parameter("tol", "number", 1e-4, "Precision at which iterations end.", 0, 1)
_ITERATIONS = Parameter("max_iter", "integer", 1000, "Iterations at most.", 1, 100_000)
_SELECTION = Parameter(
    "selection",
    "string",
    "cyclic",
    "Order in which coefficients are updated.",
    choices=("cyclic", "random"),
)
_CLASS_WEIGHT = Parameter(
    "class_weight",
    "string",
    None,
    "Weigh classes inversely to their frequency (balanced), or alike (null).",
    choices=("balanced",),
    nullable=True,
)
_MAX_DEPTH = Parameter(
    "max_depth", "integer", None, "Depth of a tree at most; null: no limit.", 1, 64, nullable=True
)
_MAX_LEAF_NODES = Parameter(
    "max_leaf_nodes",
    "integer",
    None,
    "Leaves of a tree at most; null: no limit.",
    2,
    65_535,
    nullable=True,
)
_MIN_SAMPLES_LEAF = Parameter(
    "min_samples_leaf", "integer", 1, "Rows that a leaf needs at least.", 1, 1_000_000
)
_MAX_FEATURES = Parameter(
    "max_features",
    "number",
    1.0,
    "Share of the features tried at each split, or how to count them from all.",
    0,
    1,
    exclusive_minimum=True,
    choices=("sqrt", "log2"),
)


def _criterion(default: str, *others: str) -> Parameter:
    text = "What a split is judged by."
    return Parameter("criterion", "string", default, text, choices=(default, *others))


_FOREST = (
    Parameter("n_estimators", "integer", 100, "Number of trees.", 1, 1000),
    _MAX_DEPTH,
    Parameter(
        "min_samples_split", "integer", 2, "Rows that a split needs at least.", 2, 1_000_000
    ),
    _MIN_SAMPLES_LEAF,
    _MAX_LEAF_NODES,
    Parameter("min_impurity_decrease", "number", 0.0, "What a split must gain at least.", 0, 1e12),
    Parameter("ccp_alpha", "number", 0.0, "Strength of cost-complexity pruning.", 0, 1e12),
    Parameter("bootstrap", "boolean", True, "Whether each tree sees a random sample of rows."),
    Parameter(
        "max_samples",
        "number",
        None,
        "Share of the rows drawn for each tree; null: as many as there are.",
        0,
        1,
        exclusive_minimum=True,
        nullable=True,
    ),
)
_BOOSTING = (
    Parameter(
        "learning_rate",
        "number",
        0.1,
        "Share of each tree's correction that is taken.",
        0,
        10,
        exclusive_minimum=True,
    ),
    replace(_ITERATIONS, default=100, help="Rounds of boosting at most.", maximum=2000),
    replace(_MAX_LEAF_NODES, default=31),
    _MAX_DEPTH,
    replace(_MIN_SAMPLES_LEAF, default=20),
    Parameter("l2_regularization", "number", 0.0, "Penalty on the leaves' values.", 0, 1e12),
    replace(_MAX_FEATURES, help="Share of the features tried at each split.", choices=()),
    Parameter("max_bins", "integer", 255, "Bins that a feature's values are put in.", 2, 255),
    Parameter(
        "early_stopping",
        "boolean",
        "auto",
        "Whether to hold rows out and stop when they gain no more; auto: above 10,000 rows.",
        choices=("auto",),
    ),
    Parameter(
        "validation_fraction",
        "number",
        0.1,
        "Share of the rows held out for early stopping.",
        0.01,
        0.9,
    ),
    Parameter(
        "n_iter_no_change",
        "integer",
        10,
        "Rounds without gain that early stopping takes.",
        1,
        2000,
    ),
    replace(_TOLERANCE, default=1e-7, help="What counts as a gain for early stopping."),
)

_LIGHTER_FOREST = "fewer trees (n_estimators), or smaller ones (max_leaf_nodes, min_samples_leaf)"
_LIGHTER_BOOSTING = "a smaller max_iter or max_leaf_nodes"

DEFAULT_ESTIMATOR = "linear_regression"

CATALOGUE: Mapping[str, Estimator] = {
    row.name: row
    for row in (
        Estimator(
            DEFAULT_ESTIMATOR,
            "regression",
            "Ordinary least squares.",
            "sklearn.linear_model._base",
            "LinearRegression",
            (_FIT_INTERCEPT, _POSITIVE),
            costs.least_squares_cost,
            seeded=False,
        ),
        Estimator(
            "ridge",
            "regression",
            "Least squares with a penalty on squared coefficients.",
            "sklearn.linear_model._ridge",
            "Ridge",
            (
                _ALPHA,
                _FIT_INTERCEPT,
                _POSITIVE,
                Parameter(
                    "solver",
                    "string",
                    "auto",
                    "How the equations are solved.",
                    choices=("auto", "svd", "cholesky", "lsqr", "sag", "saga"),
                ),
                replace(
                    _ITERATIONS, default=None, nullable=True, help="Iterations; null: automatic."
                ),
                _TOLERANCE,
            ),
            costs.ridge_cost,
            'the solver "lsqr", or a smaller max_iter',
            _ridge_conflicts,
        ),
        Estimator(
            "lasso",
            "regression",
            "Least squares with a penalty on absolute coefficients, which sets some to 0.",
            "sklearn.linear_model._coordinate_descent",
            "Lasso",
            (_ALPHA, _FIT_INTERCEPT, _POSITIVE, _ITERATIONS, _TOLERANCE, _SELECTION),
            costs.coordinate_descent_cost,
            "a smaller max_iter",
        ),
        Estimator(
            "elastic_net",
            "regression",
            "Least squares with the penalties of ridge and lasso mixed.",
            "sklearn.linear_model._coordinate_descent",
            "ElasticNet",
            (
                _ALPHA,
                Parameter("l1_ratio", "number", 0.5, "The lasso's share of the penalty.", 0, 1),
                *(_FIT_INTERCEPT, _POSITIVE, _ITERATIONS, _TOLERANCE, _SELECTION),
            ),
            costs.coordinate_descent_cost,
            "a smaller max_iter",
        ),
        Estimator(
            "random_forest",
            "regression",
            "The mean of decision trees grown on random samples.",
            "sklearn.ensemble._forest",
            "RandomForestRegressor",
            (
                *_FOREST,
                _criterion("squared_error", "absolute_error", "poisson"),
                _MAX_FEATURES,
            ),
            costs.forest_cost,
            _LIGHTER_FOREST,
            _forest_conflicts,
        ),
        Estimator(
            "hist_gradient_boosting",
            "regression",
            "Boosted decision trees on binned features, for many rows.",
            "sklearn.ensemble._hist_gradient_boosting.gradient_boosting",
            "HistGradientBoostingRegressor",
            (
                Parameter(
                    "loss",
                    "string",
                    "squared_error",
                    "What is minimised; poisson and gamma need targets that are not negative.",
                    choices=("squared_error", "absolute_error", "poisson", "gamma", "quantile"),
                ),
                Parameter(
                    "quantile",
                    "number",
                    None,
                    'The quantile to predict when loss is "quantile".',
                    0.001,
                    0.999,
                    nullable=True,
                ),
                *_BOOSTING,
            ),
            costs.boosting_cost,
            _LIGHTER_BOOSTING,
            _boosting_conflicts,
        ),
        Estimator(
            "logistic_regression",
            "classification",
            "A linear model of the log-odds of each class.",
            "sklearn.linear_model._logistic",
            "LogisticRegression",
            (
                # Not from 0: the penalty is 1 / C.
                Parameter("C", "number", 1.0, "Inverse strength of the penalty.", 1e-12, 1e12),
                Parameter(
                    "l1_ratio",
                    "number",
                    0.0,
                    'The share of the absolute penalty; above 0 with solver "saga" only.',
                    0,
                    1,
                ),
                Parameter(
                    "solver",
                    "string",
                    "lbfgs",
                    "How the likelihood is maximised.",
                    choices=("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"),
                ),
                replace(_ITERATIONS, default=100),
                *(_FIT_INTERCEPT, _TOLERANCE, _CLASS_WEIGHT),
            ),
            costs.logistic_cost,
            'the solver "lbfgs", or a smaller max_iter',
            _logistic_conflicts,
        ),
        Estimator(
            "random_forest_classifier",
            "classification",
            "The vote of decision trees grown on random samples.",
            "sklearn.ensemble._forest",
            "RandomForestClassifier",
            (
                *_FOREST,
                _criterion("gini", "entropy", "log_loss"),
                replace(_MAX_FEATURES, default="sqrt"),
                replace(_CLASS_WEIGHT, choices=("balanced", "balanced_subsample")),
            ),
            costs.forest_cost,
            _LIGHTER_FOREST,
            _forest_conflicts,
        ),
        Estimator(
            "hist_gradient_boosting_classifier",
            "classification",
            "Boosted decision trees on binned features, for many rows.",
            "sklearn.ensemble._hist_gradient_boosting.gradient_boosting",
            "HistGradientBoostingClassifier",
            (*_BOOSTING, _CLASS_WEIGHT),
            costs.boosting_cost,
            _LIGHTER_BOOSTING,
        ),
    )
}

_BY_TYPE = {row.type_name: row for row in CATALOGUE.values()}


def find_by_type(type_name: str) -> Estimator | None:
    """Return the row of a class by its full dotted name, as skops writes it."""
    return _BY_TYPE.get(type_name)


def resolve_params(estimator: Estimator, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the full set of parameters: those given, checked, and defaults for the rest.

    Raises InvalidInput, by the name of the parameter, for unknown names, values of another
    type or beyond the limits, and values that do not go together.
    """
    faults: dict[str, list[str]] = {}
    params = {parameter.name: parameter.default for parameter in estimator.parameters}
    known = {parameter.name: parameter for parameter in estimator.parameters}
    for name, value in given.items():
        if len(faults) == MOST_FAULTS:
            break
        if name not in known:
            faults[name] = [f"is no parameter of {estimator.name}; it has {', '.join(known)}"]
        elif not _accepts(known[name], value):
            faults[name] = [f"must be {_describe_values(known[name])}"]
        else:
            # A whole number is a number: scikit-learn would take 1 for "one feature".
            number = known[name].type == "number" and type(value) is int
            params[name] = float(value) if number else value
    faults = faults or estimator.find_conflicts(params)
    if faults:
        raise InvalidInput({"params": faults})
    return params


def build_estimator(
    estimator: Estimator, params: Mapping[str, Any], *, random_state: int, scale: bool
) -> Any:
    """Return the estimator unfitted; ``params`` come from `resolve_params`.

    With ``scale``, it is a Pipeline of ``scale`` (StandardScaler) and ``estimator``.
    """
    built = load_class(estimator)(
        **params, **({"random_state": random_state} if estimator.seeded else {})
    )
    if not scale:
        return built
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    return Pipeline([("scale", StandardScaler()), ("estimator", built)])


def read_params(estimator: Estimator, fitted: Any) -> dict[str, Any]:
    """Return what a fitted estimator has for the parameters of its row, as JSON values.

    Raises ArtifactUnusable for values that have no JSON form, or a very long one.
    """
    params = fitted.get_params()
    try:
        return {p.name: _to_json(params[p.name]) for p in estimator.parameters}
    except ValueError as error:
        raise ArtifactUnusable(f"one of its parameters {error}") from None


def _to_json(value: Any) -> Any:
    # A grid search leaves NumPy scalars; weights by class are a mapping.
    if isinstance(value, np.ndarray | np.generic):
        value = value.ravel()[: LONGEST_VALUE + 1].tolist() if value.ndim else value.item()
    if isinstance(value, str | list | tuple | dict) and len(value) > LONGEST_VALUE:
        raise ValueError(f"is longer than {LONGEST_VALUE}")
    if isinstance(value, dict):
        return {_to_json(str(key)): _to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("is beyond the whole numbers of 64 bits")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("has characters that are not printable")
    if value is None or isinstance(value, int | float | str):
        return value
    raise ValueError("is no number, string or mapping")


def load_class(estimator: Estimator) -> Any:
    """Return the class of a row, importing it."""
    return getattr(importlib.import_module(estimator.module), estimator.class_name)


def split_pipeline(estimator: Any) -> tuple[Any | None, Any]:
    """Return the standardisation of a model (None without one), and the estimator behind it."""
    steps = getattr(estimator, "steps", None)
    return (None, estimator) if steps is None else (steps[0][1], steps[-1][1])


def is_classifier(estimator: Any) -> bool:
    """Return whether a model, scaled or not, tells labels apart.

    Its class decides: a file can put ``classes_`` into a regressor.
    """
    return hasattr(type(split_pipeline(estimator)[1]), "predict_proba")


def describe_estimator(estimator: Estimator) -> dict[str, Any]:
    """Return a row as JSON: name, task, summary, and a JSON Schema for each parameter."""
    return {
        "name": estimator.name,
        "task": estimator.task,
        "summary": estimator.summary,
        "parameters": {
            parameter.name: describe_parameter(parameter) for parameter in estimator.parameters
        },
    }


def params_schema() -> Schema:
    """Return a JSON Schema of the parameters of a training: those of any one estimator."""
    return {
        "anyOf": [
            {
                "title": row.name,
                "type": "object",
                "properties": describe_estimator(row)["parameters"],
                "additionalProperties": False,
            }
            for row in CATALOGUE.values()
        ]
    }


def describe_parameter(parameter: Parameter) -> Schema:
    """Return the JSON Schema of a parameter: description, default, and its values."""
    described = {"description": parameter.help, "default": parameter.default}
    null: list[str | None] = [None] if parameter.nullable else []
    if parameter.type == "string":
        kind = ["string", "null"] if parameter.nullable else "string"
        return described | {"type": kind, "enum": [*parameter.choices, *null]}
    values: Schema = {"type": parameter.type}
    if parameter.minimum is not None:
        key = "exclusiveMinimum" if parameter.exclusive_minimum else "minimum"
        values[key] = parameter.minimum
    if parameter.maximum is not None:
        values["maximum"] = parameter.maximum
    if parameter.choices:
        words = {"enum": [*parameter.choices, *null]}
        return described | {"anyOf": [values, words]}
    if parameter.nullable:
        values["type"] = [parameter.type, "null"]
    return described | values


def _accepts(parameter: Parameter, value: Any) -> bool:
    # The type is compared, not isinstance: a boolean is an int to Python, not to JSON.
    kind = type(value)
    if value is None:
        return parameter.nullable
    if kind is str:
        return value in parameter.choices
    if kind is bool:
        return parameter.type == "boolean"
    if kind is int and parameter.type in ("integer", "number"):
        return _is_within(parameter, value)
    if kind is float and parameter.type == "number":
        return math.isfinite(value) and _is_within(parameter, value)
    return False


def _is_within(parameter: Parameter, value: float) -> bool:
    minimum, maximum = parameter.minimum, parameter.maximum
    if minimum is not None and (
        value < minimum or (parameter.exclusive_minimum and value == minimum)
    ):
        return False
    return maximum is None or value <= maximum


def _describe_values(parameter: Parameter) -> str:
    kinds = []
    if parameter.type != "string":
        kinds.append(_WORDS[parameter.type] + _describe_limits(parameter))
    if parameter.choices:
        words = ", ".join(map(json.dumps, parameter.choices))
        kinds.append(f"one of {words}" if len(parameter.choices) > 1 else words)
    if parameter.nullable:
        kinds.append("null")
    return " or ".join(kinds)


def _describe_limits(parameter: Parameter) -> str:
    if parameter.minimum is None or parameter.maximum is None:
        return ""
    if parameter.exclusive_minimum:
        return f" above {parameter.minimum:g} and up to {parameter.maximum:.15g}"
    return f" from {parameter.minimum:.15g} to {parameter.maximum:.15g}"
