"""The JSON of training: what to train on, how, and the catalogue of estimators."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from webapp.errors import faults_in
from webapp.ml.core import datasets
from webapp.ml.core.estimators import CATALOGUE, DEFAULT_ESTIMATOR, params_schema
from webapp.ml.core.tables import reading
from webapp.ml.core.tables.records import read_records
from webapp.ml.core.training import MOST_FOLDS, TrainingSpec
from webapp.ml.schemas import (
    NUMBERS,
    ROWS,
    CsvOptions,
    FeatureNames,
    RowsSchema,
    Table,
    WarningSchema,
    about,
)
from webapp.web.fields import (
    JSONBoolean,
    JSONFloat,
    JSONInteger,
    QueryFloat,
    QueryInteger,
    StrictSchema,
)

LARGEST_SEED = 2**32 - 1  # of NumPy's legacy generator
MOST_SAMPLES = 100_000
LABEL = {"type": "string", "minLength": 1, "maxLength": datasets.LONGEST_LABEL}
LABELS = {"type": "array", "items": LABEL, "minItems": 1}


class SampleDataQuery(StrictSchema):
    """Which sample data to make."""

    n_samples = QueryInteger(
        minimum=1, maximum=MOST_SAMPLES, load_default=100, metadata=about("Number of rows.")
    )
    noise = QueryFloat(
        bounds=validate.Range(0, 1e6),
        load_default=0.1,
        metadata=about("Standard deviation of the noise."),
    )
    seed = QueryInteger(
        minimum=0,
        maximum=LARGEST_SEED,
        load_default=42,
        metadata=about("The same seed gives the same numbers."),
    )


class SampleDataSchema(StrictSchema):
    """Rows to train with, and the rule they were made by."""

    X = fields.Raw(required=True, metadata=ROWS)
    y = fields.Raw(required=True, metadata=NUMBERS)
    description = fields.String(
        required=True, metadata={"example": "y = 2*x1 + 3*x2 - x3 + noise"}
    )


class EstimatorSchema(StrictSchema):
    """An estimator of the catalogue."""

    name = fields.String(required=True, metadata={"example": "ridge"})
    task = fields.String(required=True, validate=validate.OneOf(["regression", "classification"]))
    summary = fields.String(required=True)
    parameters = fields.Dict(required=True, metadata=about("A JSON Schema for each parameter."))


class TrainingOptions(StrictSchema):
    """How to train."""

    estimator = fields.String(
        load_default=DEFAULT_ESTIMATOR,
        validate=validate.OneOf(list(CATALOGUE)),
        metadata=about("Which estimator of the catalogue to fit."),
    )
    params = fields.Dict(
        keys=fields.String(),
        load_default=dict,
        metadata=about(
            "Parameters of the estimator; those not given have their defaults.",
            example={"fit_intercept": True},
            **params_schema(),
        ),
    )
    scale = JSONBoolean(
        load_default=False, metadata=about("Whether to standardise the features first.")
    )
    test_size = JSONFloat(
        bounds=validate.Range(0, 1, max_inclusive=False),
        load_default=0.2,
        metadata=about("Share of the rows that is held out to evaluate the model."),
    )
    random_state = JSONInteger(
        minimum=0,
        maximum=LARGEST_SEED,
        load_default=42,
        metadata=about("Seed of the split, and of the estimator where it is random."),
    )
    refit = JSONBoolean(
        load_default=False,
        metadata=about("Serve a model fitted on all rows, after the evaluation."),
    )
    cv = fields.Integer(
        strict=True,
        load_default=0,
        validate=[
            validate.NoneOf([1], error="Must be 0, or at least 2 folds."),
            validate.Range(0, MOST_FOLDS),
        ],
        metadata=about(
            "Folds of a cross-validation, in addition to the hold-out; 0 for none.",
            **{"not": {"const": 1}},
        ),
    )
    stratify = JSONBoolean(
        load_default=True,
        metadata=about("Whether the hold-out has each class in its share; for a classification."),
    )
    activate = JSONBoolean(
        load_default=True, metadata=about("Whether the new version becomes the active one.")
    )


class TableTrainingOptions(TrainingOptions, CsvOptions):
    """How to train on a table."""

    target = fields.String(
        required=True, metadata=about("The column to predict; the others are features.")
    )


class TrainingRequest(RowsSchema, TrainingOptions):
    """Rows to learn from, and how."""

    rows_field = "X"
    table_options = TableTrainingOptions

    X = fields.Raw(required=True, metadata=about("One row of numbers per observation.", **ROWS))
    y = fields.Raw(
        required=True,
        metadata=about(
            "What to predict, one per row of X: numbers for a regression, strings or whole "
            "numbers for a classification. Rows with null are left out.",
            anyOf=[NUMBERS, LABELS],
        ),
    )
    feature_names = FeatureNames("Names of the columns of X; x1, x2, … where not given.")

    @ma.post_load
    def make_dataset(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the dataset and the options; what y may hold depends on the estimator's task."""
        regression = CATALOGUE[data["estimator"]].task == "regression"
        convert = datasets.vector_from_values if regression else datasets.labels_from_values
        with faults_in("X"):
            rows = datasets.matrix_from_rows(data.pop("X"))
        X, y, warnings = datasets.drop_missing_targets(rows, data.pop("y"))
        with faults_in("y"):
            target = convert(y)
        dataset = datasets.make_dataset(X, target, data.pop("feature_names"), warnings)
        return _as_arguments(dataset, data)

    def load_table(self, table: Table) -> dict[str, Any]:
        """Return the options of a table and its dataset."""
        options = dict(table.options)
        task = CATALOGUE[options["estimator"]].task
        dataset = table.read(reading.read_dataset, target=options.pop("target"), task=task)
        return _as_arguments(dataset, options)


VALUE = {"type": ["number", "string", "boolean", "null"]}
TARGET = about("The column to predict: `task` and warnings are about it.")


class InspectionOptions(CsvOptions):
    """How to look at a table."""

    target = fields.String(load_default=None, metadata=TARGET)


class InspectionRequest(RowsSchema):
    """Rows to look at."""

    rows_field = "data"
    table_options = InspectionOptions

    data = fields.Raw(
        required=True,
        metadata=about(
            "The rows: objects with values by the name of their column.",
            type="array",
            items={"type": "object", "additionalProperties": VALUE},
            minItems=1,
        ),
    )
    target = fields.String(load_default=None, metadata=TARGET)

    @ma.post_load
    def read_data(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the columns of the rows, and the target."""
        with faults_in("data"):
            columns = read_records(data["data"])
        with faults_in("target"):
            columns.check_target(data["target"])
        return {"columns": columns, "target": data["target"]}

    def load_table(self, table: Table) -> dict[str, Any]:
        """Return the columns of a table, and the target."""
        target = table.options["target"]
        return {"columns": table.read(reading.read_columns, target=target), "target": target}


class ColumnSchema(StrictSchema):
    """A column as a training would take it."""

    name = fields.String(required=True, metadata={"example": "island"})
    kind = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf(["number", "boolean", "category", "datetime", "text"]),
        metadata=about("null where a model could learn nothing from the column."),
    )
    missing = fields.Integer(required=True, metadata=about("Rows without a value."))
    distinct = fields.Integer(required=True, metadata=about("Different values."))
    examples = fields.List(fields.Raw(), required=True, metadata=about("The first values."))
    minimum = fields.Raw(required=True, metadata=about("Of numbers and dates.", nullable=True))
    maximum = fields.Raw(required=True, metadata=about("Of numbers and dates.", nullable=True))


class InspectionSchema(StrictSchema):
    """What a table holds."""

    n_rows = fields.Integer(required=True)
    task = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf(["regression", "classification"]),
        metadata=about("What the target is for; null without one."),
    )
    columns = fields.List(fields.Nested(ColumnSchema), required=True)
    warnings = fields.List(fields.Nested(WarningSchema), required=True)


def _as_arguments(dataset: datasets.Dataset, options: dict[str, Any]) -> dict[str, Any]:
    """Return what ``training.service.train_model`` takes."""
    activate = options.pop("activate")
    return {"dataset": dataset, "activate": activate, "spec": TrainingSpec(**options)}
