"""The catalogue of estimators: adding one is adding one row.

A row says what the estimator is for, which parameters a client may set and within which
limits, and how it is built. Nothing of scikit-learn is imported before a model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.errors import InvalidInput


@dataclass(frozen=True)
class Parameter:
    """A parameter that a client may set: its JSON type, default and one line of help."""

    name: str
    type: type
    default: Any
    help: str


@dataclass(frozen=True)
class Estimator:
    """One row of the catalogue; ``build`` takes the parameters and returns it unfitted."""

    name: str
    task: str
    summary: str
    parameters: tuple[Parameter, ...]
    build: Callable[..., Any]


def _linear_regression(**params: Any) -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression(**params)


DEFAULT_ESTIMATOR = "linear_regression"

CATALOGUE: Mapping[str, Estimator] = {
    row.name: row
    for row in (
        Estimator(
            DEFAULT_ESTIMATOR,
            "regression",
            "Ordinary least squares.",
            (
                Parameter("fit_intercept", bool, True, "Whether to fit a constant term."),
                Parameter("positive", bool, False, "Whether coefficients must not be negative."),
            ),
            _linear_regression,
        ),
    )
}


def resolve_params(estimator: Estimator, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the full set of parameters: those given, checked, and defaults for the rest.

    Raises InvalidInput, by the name of the parameter.
    """
    faults: dict[str, list[str]] = {}
    known = {parameter.name: parameter for parameter in estimator.parameters}
    for name, value in given.items():
        if name not in known:
            faults[name] = [f"is no parameter of {estimator.name}; it has {', '.join(known)}"]
        elif type(value) is not known[name].type:
            faults[name] = [f"must be of type {known[name].type.__name__}"]
    if faults:
        raise InvalidInput({"params": faults})
    return {name: given.get(name, parameter.default) for name, parameter in known.items()}
