"""Shapes of models, versions and activations on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
import orjson
from marshmallow import fields, validate

from webapp.ml.core.estimators import DEFAULT_ESTIMATOR
from webapp.ml.core.metrics import MOST_MATRIX_CLASSES
from webapp.ml.core.training import MOST_COEFFICIENTS
from webapp.ml.schemas import (
    NUMBERS,
    ROWS,
    FeatureNames,
    FilePart,
    WarningSchema,
)
from webapp.web.fields import (
    JSONBoolean,
    JSONInteger,
    JSONObject,
    StrictSchema,
)

MOST_METRICS_BYTES = 2**16  # of an upload, as JSON: every listing reads them


class VersionSummarySchema(StrictSchema):
    """A version of a model in a listing: without what grows with its features or classes.

    What is not known of a model that was fitted elsewhere is null.
    """

    name = fields.String(required=True, attribute="model.name", metadata={"example": "default"})
    version = fields.Integer(required=True, attribute="number", metadata={"example": 1})
    origin = fields.String(
        required=True,
        validate=validate.OneOf(["trained", "uploaded"]),
        metadata={"description": "Whether it was fitted here or elsewhere."},
    )
    task = fields.String(required=True, validate=validate.OneOf(["regression", "classification"]))
    estimator = fields.String(required=True, metadata={"example": DEFAULT_ESTIMATOR})
    model_type = fields.String(required=True, metadata={"example": "LinearRegression"})
    params = fields.Dict(required=True, metadata={"example": {"fit_intercept": True}})
    scale = fields.Boolean(
        required=True, metadata={"description": "Whether features are standardised first."}
    )
    metrics = fields.Dict(
        required=True,
        attribute="single_metrics",
        metadata={
            "description": "Metrics that are one number; null where undefined for these rows.",
            "example": {"accuracy": 0.96, "log_loss": 0.11, "roc_auc": None},
        },
    )
    evaluated_on = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf(["hold-out", "training"]),
        metadata={"description": "Which rows the metrics speak of."},
    )
    n_train = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Rows fitted for the metrics."}
    )
    n_test = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Rows held out."}
    )
    test_size = fields.Float(required=True, allow_none=True)
    random_state = fields.Integer(required=True, allow_none=True)
    refit = fields.Boolean(required=True, allow_none=True)
    converged = fields.Boolean(
        required=True,
        allow_none=True,
        metadata={
            "description": "Whether an iterative solver came to its end before max_iter; "
            "null where none was at work, as in boosting."
        },
    )
    fit_seconds = fields.Float(required=True, allow_none=True)
    data_digest = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "SHA-256 of names and rows: the same whatever they came in."},
    )
    warnings = fields.List(
        fields.Nested(WarningSchema),
        required=True,
        metadata={"description": "What was left out of the data in training, or converted."},
    )
    libraries = fields.Dict(required=True, metadata={"example": {"scikit-learn": "1.9.1"}})
    digest = fields.String(
        required=True,
        attribute="artifact_digest",
        metadata={"description": "SHA-256 of the artifact."},
    )
    created_at = fields.AwareDateTime(required=True, format="iso")
    created_by = fields.String(required=True, allow_none=True)


class VersionSchema(VersionSummarySchema):
    """A version of a model: how it was made, and how good it is. It never changes.

    What is not known of a model that was fitted elsewhere is null.
    """

    feature_names = fields.List(fields.String(), required=True)
    classes = fields.List(
        fields.Raw(),
        required=True,
        allow_none=True,
        metadata={"description": "The labels of a classification; null for a regression."},
    )
    metrics = fields.Dict(
        required=True,
        metadata={
            "description": "A metric that is undefined for these rows is null, and so is the "
            f"confusion matrix of more than {MOST_MATRIX_CLASSES} classes.",
            "example": {"mse": 0.0048, "rmse": 0.0696, "mae": 0.0593, "r2_score": 0.9996},
        },
    )
    coefficients = fields.Dict(
        required=True,
        allow_none=True,
        metadata={
            "description": "Intercept and coefficient by feature name of a linear model, in units "
            "of the features as they came; of a classification by class. null for other models, "
            f"and where there are more than {MOST_COEFFICIENTS}: `…/coefficients` has those.",
            "example": {"intercept": 0.01, "coefficients": {"x1": 2.0, "x2": 3.0, "x3": -1.0}},
        },
    )
    profile = fields.Dict(
        required=True,
        allow_none=True,
        metadata={"description": "Mean, spread, minimum and maximum of each feature as fitted."},
    )


class CoefficientsSchema(StrictSchema):
    """All coefficients of a linear model, in units of the features as they came."""

    feature_names = fields.List(fields.String(), required=True)
    classes = fields.List(
        fields.Raw(),
        required=True,
        allow_none=True,
        metadata={
            "description": "The class of each row of `coefficients`: of two classes the second, "
            "whose log-odds they add up to; null for a regression.",
        },
    )
    intercepts = fields.Raw(
        required=True,
        metadata={**NUMBERS, "description": "One for each row of `coefficients`.", "example": [0]},
    )
    coefficients = fields.Raw(
        required=True,
        metadata={
            **ROWS,
            "description": "One row for each class, or one for a regression; one column for each "
            "of `feature_names`.",
            "example": [[2.0, 3.0, -1.0]],
        },
    )


class TrainingResponse(StrictSchema):
    """What a training made."""

    message = fields.String(required=True, metadata={"example": "Model trained successfully"})
    metrics = fields.Dict(required=True)
    warnings = fields.List(fields.Nested(WarningSchema), required=True)
    model = fields.Nested(VersionSchema, required=True)


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


class ModelSchema(StrictSchema):
    """A model and the version of it that serves."""

    name = fields.String(required=True, metadata={"example": "default"})
    active_version = fields.Integer(
        required=True,
        allow_none=True,
        attribute="active.version_number",
        dump_default=None,
        metadata={"description": "null while no version is active.", "example": 1},
    )
    last_version = fields.Integer(
        required=True,
        metadata={"description": "The highest version number given out.", "example": 1},
    )
    created_at = fields.AwareDateTime(required=True, format="iso")


class ActivationRequest(StrictSchema):
    """Which version is to serve."""

    version = JSONInteger(minimum=1, maximum=2**31 - 1, required=True, metadata={"example": 1})


class ActivationSchema(StrictSchema):
    """A version's time as the active one."""

    version = fields.Integer(required=True, attribute="version_number", metadata={"example": 2})
    previous_version = fields.Integer(
        required=True,
        allow_none=True,
        attribute="previous_number",
        metadata={"description": "What was active until then.", "example": 1},
    )
    reason = fields.String(
        required=True, validate=validate.OneOf(["train", "upload", "activate", "rollback"])
    )
    activated_at = fields.AwareDateTime(required=True, format="iso")
    activated_by = fields.String(required=True, allow_none=True)
    ended_at = fields.AwareDateTime(
        required=True,
        allow_none=True,
        format="iso",
        metadata={"description": "null while active."},
    )


def _check_metrics(metrics: Mapping[str, Any]) -> None:
    size = len(orjson.dumps(metrics))
    if size > MOST_METRICS_BYTES:
        raise ma.ValidationError(f"Takes {size} bytes, at most {MOST_METRICS_BYTES} are allowed.")


class UploadRequest(StrictSchema):
    """A model that was fitted elsewhere."""

    artifact = FilePart(
        required=True,
        metadata={
            "type": "string",
            "format": "binary",
            "description": "The file that `skops.io.dump` wrote.",
        },
    )
    feature_names = FeatureNames("Those that the estimator learnt, where not given.")
    metrics = JSONObject(
        keys=fields.String(),
        load_default=dict,
        validate=_check_metrics,
        metadata={"description": "What is known of its quality.", "example": {"r2_score": 0.9}},
    )
    activate = JSONBoolean(
        load_default=False,
        metadata={"description": "Whether it serves predictions from now on."},
    )
