"""Shapes of trainings on the wire."""

from __future__ import annotations

from typing import Any, BinaryIO

import marshmallow as ma
from marshmallow import fields, validate

from webapp.errors import faults_in
from webapp.ml.core import datasets, tables
from webapp.ml.core.estimators import CATALOGUE, DEFAULT_ESTIMATOR, params_schema
from webapp.ml.core.tables import (
    Format,
    Limits,
)
from webapp.ml.core.training import MOST_FOLDS
from webapp.ml.schemas import (
    LABELS,
    LARGEST_SEED,
    NUMBERS,
    ROWS,
    Converted,
    CsvOptions,
    FeatureNames,
    RowsSchema,
)
from webapp.web.fields import (
    JSONBoolean,
    JSONFloat,
    JSONInteger,
    QueryFloat,
    QueryInteger,
    StrictSchema,
)

MOST_SAMPLES = 100_000


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


class TrainingOptions(StrictSchema):
    """How to train."""

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
            **params_schema(),
        },
    )
    scale = JSONBoolean(
        load_default=False,
        metadata={"description": "Whether to standardise the features first."},
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
        metadata={"description": "Seed of the split, and of what the estimator draws."},
    )
    refit = JSONBoolean(
        load_default=False,
        metadata={"description": "Serve a model fitted on all rows, once the hold-out judged it."},
    )
    cv = fields.Integer(
        strict=True,
        load_default=0,
        validate=[
            validate.NoneOf([1], error="Must be 0, or at least 2 folds."),
            validate.Range(0, MOST_FOLDS),
        ],
        metadata={
            "description": "Folds of a cross-validation beside the hold-out; 0 for none.",
            "not": {"const": 1},
        },
    )
    activate = JSONBoolean(
        load_default=True,
        metadata={"description": "Whether the new version serves predictions from now on."},
    )


class TableTrainingOptions(TrainingOptions, CsvOptions):
    """How to train on a table."""

    target = fields.String(
        required=True, metadata={"description": "The column to predict; the others are features."}
    )


class TrainingRequest(RowsSchema, TrainingOptions):
    """Rows to learn from, and how."""

    tabular = TableTrainingOptions

    X = Converted(
        datasets.matrix_from_rows,
        required=True,
        metadata={**ROWS, "description": "One row of numbers per observation."},
    )
    y = fields.Raw(
        required=True,
        metadata={
            "anyOf": [NUMBERS, LABELS],
            "description": "What to predict, one per row of X: numbers for a regression, strings "
            "or whole numbers for a classification.",
        },
    )
    feature_names = FeatureNames("Names of the columns of X; x1, x2, … where not given.")

    @ma.post_load
    def make_dataset(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Join X and y to a dataset; what y may hold depends on the estimator's task.

        Rows whose y is null are left out.
        """
        regression = CATALOGUE[data["estimator"]].task == "regression"
        convert = datasets.vector_from_values if regression else datasets.labels_from_values
        X, y, names = data.pop("X"), data.pop("y"), data.pop("feature_names")
        X, y, warnings = datasets.drop_missing_targets(X, y)
        with faults_in("y"):
            target = convert(y)
        dataset = datasets.make_dataset(X, target, names, warnings)
        return {**data, "dataset": dataset}

    @staticmethod
    def read_table(
        stream: BinaryIO, format_: Format, limits: Limits, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the options with the dataset of a table."""
        dataset = tables.read_dataset(
            stream,
            format=format_,
            target=options.pop("target"),
            task=CATALOGUE[options["estimator"]].task,
            limits=limits,
            dialect=options.pop("dialect"),
        )
        return {**options, "dataset": dataset}


class EstimatorSchema(StrictSchema):
    """An estimator of the catalogue."""

    name = fields.String(required=True, metadata={"example": "ridge"})
    task = fields.String(required=True, validate=validate.OneOf(["regression", "classification"]))
    summary = fields.String(required=True)
    parameters = fields.Dict(
        required=True, metadata={"description": "A JSON Schema for each parameter."}
    )
