"""The JSON of training: what to train on, how, and the catalogue of estimators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import marshmallow as ma
from marshmallow import fields, validate

from webapp.errors import InvalidInput, faults_in
from webapp.ml.core import datasets
from webapp.ml.core.estimators import ESTIMATORS, params_schema
from webapp.ml.core.learning import (
    EXCLUDE,
    Choices,
    check_kinds,
    infer_task,
    make_dataset_from,
    make_dataset_of,
    read_dataset,
)
from webapp.ml.core.packing import SourceFiles
from webapp.ml.core.signature import KINDS, Task
from webapp.ml.core.sources import LONGEST_PATTERN, split_path
from webapp.ml.core.tables.reading import read_columns
from webapp.ml.core.tables.records import are_rows_of_values, read_records, read_rows
from webapp.ml.core.tables.shapes import CsvDialect
from webapp.ml.core.training import AUTO, MOST_FOLDS, TrainingSpec
from webapp.ml.schemas import (
    NUMBERS,
    RECORDS,
    ROW,
    ROWS,
    Activate,
    CsvFields,
    CsvOptions,
    FeatureNames,
    RowsSchema,
    Table,
    TargetedRows,
    WarningSchema,
    about,
    check_gate,
    metric_field,
    take_dialect,
)
from webapp.web.fields import (
    JSONBoolean,
    JSONFloat,
    JSONInteger,
    JSONObject,
    QueryFloat,
    QueryInteger,
    StrictSchema,
)

LARGEST_SEED = 2**32 - 1  # of NumPy's legacy generator
MOST_SAMPLES = 100_000


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

    metric_is_of_gate: ClassVar[bool] = True

    estimator = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.OneOf([*ESTIMATORS, AUTO]),
        metadata=about(
            "Which estimator of the catalogue to fit; where not given, linear_regression for "
            "numbers and logistic_regression for classes. `auto` cross-validates some, fits the "
            "best, and shows the ranking in `candidates` of the metrics."
        ),
    )
    task = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.OneOf(["regression", "classification"]),
        metadata=about(
            "What the target is for; where not given, that of the estimator, or else by the "
            "target's type: text and booleans are classes, numbers are numbers."
        ),
    )
    params = fields.Dict(
        keys=fields.String(),
        load_default=dict,
        metadata=about(
            "Parameters of the estimator; those not given have their defaults.",
            default={},
            example={"fit_intercept": True},
            **params_schema(),
        ),
    )
    time_budget = JSONInteger(
        minimum=1,
        maximum=3600,
        load_default=60,
        metadata=about("Seconds after which `auto` tries no further estimator."),
    )
    scale = JSONBoolean(
        load_default=None,
        allow_none=True,
        metadata=about(
            "Whether to standardise the numbers first; where not given, as the estimator needs it."
        ),
    )
    columns = JSONObject(
        keys=fields.String(),
        values=fields.String(validate=validate.OneOf([*KINDS, EXCLUDE])),
        load_default=dict,
        metadata=about(
            "Kinds of columns, where they are not what their values say; `exclude` leaves a "
            "column out.",
            default={},
            example={"zip": "category", "id": "exclude"},
        ),
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
    exclude = fields.List(  # type: ignore[assignment] # an attribute of schemas, not of classes
        fields.String(),
        load_default=list,
        metadata=about("Columns to leave out.", default=[], example=["id"]),
    )
    activate = Activate(
        load_default=True,
        metadata=about(
            "Whether the new version becomes the active one; with `if_better`, when it is better "
            "than the active one by `metric`, on the rows that are held out."
        ),
    )
    metric = metric_field()

    @ma.validates_schema
    def check_metric(self, data: dict[str, Any], **_: Any) -> None:
        """Raise ValidationError for a metric without a comparison, or the reverse."""
        if self.metric_is_of_gate:
            check_gate(data, "metric")

    @ma.validates_schema
    def check_task(self, data: dict[str, Any], **_: Any) -> None:
        """Raise ValidationError for a task that is not the estimator's."""
        entry = ESTIMATORS.get(data["estimator"] or "")
        if data["params"] and data["estimator"] == AUTO:
            raise ma.ValidationError("Needs another estimator than auto.", "params")
        if entry is not None and data["task"] not in (None, entry.task):
            message = f"Is {data['task']}, but {entry.name} is for {entry.task}."
            raise ma.ValidationError(message, "task")


class TableTrainingOptions(TrainingOptions, CsvOptions):
    """How to train on a table."""

    target = fields.String(
        required=True, metadata=about("The column to predict; the others are features.")
    )


class TrainingRows(TargetedRows, TrainingOptions):
    """Rows to learn from, and how: `X` and `y`, or `data` and `target`."""

    table_options = TableTrainingOptions

    X = fields.Raw(
        metadata=about(
            "One row per observation: numbers, or values of any kind, null where one is missing.",
            type="array",
            items=ROW,
            minItems=1,
        ),
    )
    feature_names = FeatureNames("Names of the columns of X; x1, x2, … where not given.")

    @ma.post_load
    def make_dataset(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the dataset and the options; what y may hold depends on the task."""
        task, kinds = _choose_task(data), _choose_kinds(data)
        X, y, target = data.pop("X", None), data.pop("y", None), data.pop("target")
        names, records = data.pop("feature_names"), data.pop("data", None)
        if records is not None:
            with faults_in("data"):
                columns = read_records(records)
            with faults_in("target"):
                columns.check_target(target)
            check_kinds(kinds, [n for n in columns.rows.column_names if n != target])
            with faults_in("data"):
                dataset = make_dataset_from(columns, Choices(target, task, kinds))
        else:
            dataset = _read_rows(X, y, names, task, kinds)
        return self.make_arguments(data, dataset=dataset)

    def load_table(self, table: Table) -> dict[str, Any]:
        """Return the options of a table and its dataset."""
        options = dict(table.options)
        task, kinds = _choose_task(options), _choose_kinds(options)
        choices = Choices(options.pop("target"), task, kinds)
        dataset = table.read(read_dataset, choices=choices)
        return {**self.make_arguments(options, dataset=dataset), "source": table.source.name}

    def make_arguments(self, options: dict[str, Any], **rows: Any) -> dict[str, Any]:
        """Return what ``training.service`` takes for an order."""
        activate, metric = options.pop("activate"), options.pop("metric")
        found = {**rows, "spec": TrainingSpec(**options)}
        return {**found, "activate": activate} if metric is None else {**found, "metric": metric}


class TrainingRequest(TrainingRows, CsvFields):
    """Rows to learn from, and how: `X` and `y`, or `data`, or a `source`, and `target`."""

    source = fields.String(
        metadata=about(
            "Instead of rows: the files below the operator's data folder (DATA_ROOT) that hold "
            "them, which may be larger than memory. A file, a folder, or a pattern with `*`, "
            "`?`, `[…]` and `**`; `target` is one of their columns.",
            minLength=1,
            maxLength=LONGEST_PATTERN,
        ),
    )

    @ma.validates_schema
    def check_rows(self, data: dict[str, Any], **kwargs: Any) -> None:
        """Raise ValidationError unless there are X and y, or data or a source and a target."""
        if "source" not in data:
            super().check_rows(data, **kwargs)
            if take_dialect(dict(data)) != CsvDialect():
                raise ma.ValidationError("Is for the files of a source.", "delimiter")
        elif {"X", "y", "data"} & data.keys():
            raise ma.ValidationError("Must not be given beside X, y or data.", "source")
        elif data["target"] is None:
            raise ma.ValidationError("Missing data for required field.", "target")

    @ma.post_load
    def make_dataset(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the dataset, or which files hold it, and the options."""
        if "source" in data:
            return read_source_options(data.pop("source"), data)
        take_dialect(data)
        found: dict[str, Any] = super().make_dataset(data, **kwargs)
        return found


def read_source_options(pattern: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what ``training.service.order_source_training`` takes of checked options.

    Raises InvalidInput for a pattern that leads out of the data folder.
    """
    with faults_in("source"):
        split_path(pattern)
    dialect = options.pop("dialect", None) or take_dialect(options)
    task, kinds = _choose_task(options), _choose_kinds(options)
    choices = Choices(options.pop("target"), task, kinds)
    options.pop("feature_names", None)
    files = SourceFiles(pattern, choices, dialect)
    return TrainingRows().make_arguments(options, files=files)


def _read_rows(
    X: Any, y: Any, names: list[str] | None, task: Task | None, kinds: dict[str, str]
) -> datasets.Dataset:
    """Return the dataset of JSON rows: of a matrix, or where that fails of rows of any kind."""
    if not kinds:
        try:
            with faults_in("X"):
                rows = datasets.matrix_from_rows(X)
        except InvalidInput:
            if not are_rows_of_values(X) or datasets.is_numeric(X):
                raise
        else:
            rows, y, warnings = datasets.drop_missing_targets(rows, y)
            return datasets.make_dataset(rows, _read_target(y, task), names, warnings)
    elif not are_rows_of_values(X):
        with faults_in("X"):
            datasets.matrix_from_rows(X)  # which says what is wrong
            raise InvalidInput(["must be rows of single values"])
    X, y, warnings = datasets.drop_missing_targets(X, y)
    target = _read_target(y, task)
    found = datasets.default_feature_names(len(X[0])) if names is None else tuple(names)
    datasets.check_parts(len(X), len(X[0]), target, found)
    check_kinds(kinds, found)
    with faults_in("X"):
        columns = replace(read_rows(X, found), warnings=warnings)
        return make_dataset_of(columns, target, target="y", kinds=kinds)


def _read_target(y: Any, task: Task | None) -> datasets.Vector | datasets.Labels:
    if task is None and isinstance(y, list):
        task = infer_task(y)
    with faults_in("y"):
        if task == "classification":
            return datasets.labels_from_values(y)
        return datasets.vector_from_values(y)


def _choose_task(options: dict[str, Any]) -> Task | None:
    """Return the task that the options ask for, None where the target decides."""
    task: Task | None = options.pop("task")
    entry = ESTIMATORS.get(options["estimator"] or "")
    if entry is None:
        return task
    return entry.task


def _choose_kinds(options: dict[str, Any]) -> dict[str, str]:
    """Return what the options say of columns, by name."""
    columns: dict[str, str] = options.pop("columns")
    return columns | dict.fromkeys(options.pop("exclude"), EXCLUDE)


TARGET = about("The column to predict: `task` and warnings are about it.")


class InspectionOptions(CsvOptions):
    """How to look at a table."""

    target = fields.String(load_default=None, metadata=TARGET)


class InspectionRequest(RowsSchema):
    """Rows to look at."""

    rows_fields = ("data",)
    table_options = InspectionOptions

    data = fields.Raw(
        required=True,
        metadata=about("The rows: objects with values by the name of their column.", **RECORDS),
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
        return {"columns": table.read(read_columns, target=target), "target": target}


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
