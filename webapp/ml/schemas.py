"""The shapes and limits of machine learning on the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from webapp.errors import InvalidInput
from webapp.fields import (
    JSONBoolean,
    JSONFloat,
    JSONInteger,
    QueryFloat,
    QueryInteger,
    StrictSchema,
)
from webapp.ml.core import datasets
from webapp.ml.core.estimators import CATALOGUE, DEFAULT_ESTIMATOR

LARGEST_SEED = 2**32 - 1  # of NumPy's legacy generator
MOST_SAMPLES = 100_000

NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1}
ROWS = {"type": "array", "items": NUMBERS, "minItems": 1}
RECORD = {"type": "object", "additionalProperties": {"type": "number"}}


class _Converted(fields.Field[Any]):
    """A field whose value a function of the core makes and checks."""

    def __init__(self, convert: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._convert = convert

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> Any:
        try:
            return self._convert(value)
        except InvalidInput as error:
            raise ma.ValidationError(error.faults) from None  # type: ignore[arg-type] # as nested


def _read_features(value: Any) -> Any:
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise InvalidInput(["must be an array of numbers, or an object by feature name"])
    return datasets.vector_from_values(value).reshape(1, -1)


def _read_instances(value: Any) -> Any:
    if isinstance(value, list) and value and all(type(row) is dict for row in value):
        return value
    return datasets.matrix_from_rows(value)


class SampleDataQuery(StrictSchema):
    """Which sample data to make."""

    n_samples = QueryInteger(
        minimum=1,
        maximum=MOST_SAMPLES,
        load_default=100,
        metadata={"description": "Number of rows."},
    )
    noise = QueryFloat(
        bounds=validate.Range(0, 1e6),
        load_default=0.1,
        metadata={"description": "Standard deviation of the noise."},
    )
    seed = QueryInteger(
        minimum=0,
        maximum=LARGEST_SEED,
        load_default=42,
        metadata={"description": "The same seed gives the same numbers."},
    )


class SampleDataSchema(StrictSchema):
    """Rows to train with, and the rule they were made by."""

    X = fields.Raw(required=True, metadata=ROWS)
    y = fields.Raw(required=True, metadata=NUMBERS)
    description = fields.String(
        required=True, metadata={"example": "y = 2*x1 + 3*x2 - x3 + noise"}
    )


class TrainingRequest(StrictSchema):
    """Rows to learn from, and how."""

    X = _Converted(
        datasets.matrix_from_rows,
        required=True,
        metadata={**ROWS, "description": "One row of numbers per observation."},
    )
    y = _Converted(
        datasets.vector_from_values,
        required=True,
        metadata={**NUMBERS, "description": "What to predict: one number per row of X."},
    )
    estimator = fields.String(
        load_default=DEFAULT_ESTIMATOR,
        validate=validate.OneOf(list(CATALOGUE)),
        metadata={"description": "Which estimator of the catalogue to fit."},
    )
    params = fields.Dict(
        keys=fields.String(),
        load_default=dict,
        metadata={
            "description": "Parameters of the estimator; those not given have their defaults.",
            "example": {"fit_intercept": True},
        },
    )
    feature_names = fields.List(
        fields.String(),
        load_default=None,
        metadata={"description": "Names of the columns of X; x1, x2, … where not given."},
    )
    test_size = JSONFloat(
        bounds=validate.Range(0, 1, max_inclusive=False),
        load_default=0.2,
        metadata={"description": "Share of the rows that is held out to judge the model."},
    )
    random_state = JSONInteger(
        minimum=0,
        maximum=LARGEST_SEED,
        load_default=42,
        metadata={"description": "Seed of the split into training rows and hold-out."},
    )
    refit = JSONBoolean(
        load_default=False,
        metadata={"description": "Serve a model fitted on all rows, once the hold-out judged it."},
    )
    activate = JSONBoolean(
        load_default=True,
        metadata={"description": "Whether the new version serves predictions from now on."},
    )


class VersionRefSchema(StrictSchema):
    """Which version of which model."""

    name = fields.String(required=True, metadata={"example": "default"})
    version = fields.Integer(required=True, metadata={"example": 1})


class VersionSchema(StrictSchema):
    """A version of a model: how it was made, and how good it is. It never changes."""

    name = fields.String(required=True, attribute="model.name", metadata={"example": "default"})
    version = fields.Integer(required=True, attribute="number", metadata={"example": 1})
    estimator = fields.String(required=True, metadata={"example": DEFAULT_ESTIMATOR})
    model_type = fields.String(required=True, metadata={"example": "LinearRegression"})
    params = fields.Dict(required=True, metadata={"example": {"fit_intercept": True}})
    feature_names = fields.List(fields.String(), required=True)
    metrics = fields.Dict(
        required=True,
        metadata={
            "description": "A metric that is undefined for these rows is null.",
            "example": {"mse": 0.0048, "rmse": 0.0696, "mae": 0.0578, "r2_score": 0.9996},
        },
    )
    evaluated_on = fields.String(
        required=True,
        validate=validate.OneOf(["hold-out", "training"]),
        metadata={"description": "Which rows the metrics speak of."},
    )
    n_train = fields.Integer(
        required=True, metadata={"description": "Rows fitted for the metrics."}
    )
    n_test = fields.Integer(required=True, metadata={"description": "Rows held out."})
    test_size = fields.Float(required=True)
    random_state = fields.Integer(required=True)
    refit = fields.Boolean(required=True)
    fit_seconds = fields.Float(required=True)
    libraries = fields.Dict(required=True, metadata={"example": {"scikit-learn": "1.9.1"}})
    digest = fields.String(
        required=True,
        attribute="artifact_digest",
        metadata={"description": "SHA-256 of the artifact."},
    )
    created_at = fields.AwareDateTime(required=True, format="iso")


class TrainingResponse(StrictSchema):
    """What a training made."""

    message = fields.String(required=True, metadata={"example": "Model trained successfully"})
    metrics = fields.Dict(required=True)
    model = fields.Nested(VersionSchema, required=True)


class PredictionRequest(StrictSchema):
    """One row to predict for."""

    features = _Converted(
        _read_features,
        required=True,
        metadata={
            "oneOf": [NUMBERS, RECORD],
            "description": "The row: an array in training order, or an object by feature name.",
        },
    )


class PredictionResponse(StrictSchema):
    """A prediction, and which version made it."""

    prediction = fields.Raw(required=True, metadata={"type": "number", "example": 4.9608})
    model = fields.Nested(VersionRefSchema, required=True)


class BatchRequest(StrictSchema):
    """Rows to predict for."""

    instances = _Converted(
        _read_instances,
        required=True,
        metadata={
            "oneOf": [ROWS, {"type": "array", "items": RECORD, "minItems": 1}],
            "description": "The rows: arrays in training order, or objects by feature name.",
        },
    )


class BatchResponse(StrictSchema):
    """A prediction per row, and which version made them."""

    predictions = fields.Raw(required=True, metadata=NUMBERS)
    model = fields.Nested(VersionRefSchema, required=True)


class ModelInfoSchema(StrictSchema):
    """What serves, or that nothing was trained yet."""

    trained = fields.Boolean(required=True)
    model_type = fields.String(
        required=True, allow_none=True, metadata={"example": "LinearRegression"}
    )
    metrics = fields.Dict(required=True)
    model = fields.Nested(
        VersionSchema, metadata={"description": "The active version; absent while untrained."}
    )
