"""The shapes and limits of machine learning on the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar

import marshmallow as ma
import orjson
from marshmallow import fields, validate
from werkzeug.datastructures import FileStorage

from webapp.errors import InvalidInput, faults_in
from webapp.ml.core import datasets, tables
from webapp.ml.core.estimators import CATALOGUE, DEFAULT_ESTIMATOR, params_schema
from webapp.ml.core.metrics import MOST_MATRIX_CLASSES
from webapp.ml.core.tables import (
    DECIMALS,
    DEFAULT_DIALECT,
    DELIMITERS,
    CsvDialect,
    Format,
    Limits,
)
from webapp.ml.core.training import MOST_COEFFICIENTS, MOST_FOLDS
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
MOST_METRICS_BYTES = 2**16  # of an upload, as JSON: every listing reads them

NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1}
ROWS = {"type": "array", "items": NUMBERS, "minItems": 1}
LABEL = {"type": "string", "minLength": 1, "maxLength": datasets.LONGEST_LABEL}
LABELS = {"type": "array", "items": LABEL, "minItems": 1}
RECORD = {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1}


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


class FeatureNames(fields.List[str]):
    """Names for the columns of a matrix, which the core checks; null where none are given."""

    def __init__(self, description: str) -> None:
        name = fields.String(metadata={"minLength": 1, "maxLength": datasets.LONGEST_FEATURE_NAME})
        metadata = {"description": description, "uniqueItems": True}
        super().__init__(name, load_default=None, metadata=metadata)


class FilePart(fields.Field[FileStorage]):
    """A file part of a form."""


class RowsSchema(StrictSchema):
    """A JSON body of rows; ``tabular`` is the schema of the options that go with a table."""

    tabular: ClassVar[type[StrictSchema]]

    @staticmethod
    def read_table(
        stream: BinaryIO, format_: Format, limits: Limits, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the options with the rows of a table."""
        raise NotImplementedError


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


class CsvOptions(StrictSchema):
    """How a CSV table is written; other tables take no such options."""

    delimiter = fields.String(
        load_default=DEFAULT_DIALECT.delimiter,
        validate=validate.OneOf(DELIMITERS),
        metadata={"description": "What separates the columns of CSV: a comma, `;`, a tab or `|`."},
    )
    decimal = fields.String(
        load_default=DEFAULT_DIALECT.decimal,
        validate=validate.OneOf(DECIMALS),
        metadata={
            "description": "The decimal point of CSV: `.`, or `,` beside another delimiter."
        },
    )

    @ma.post_load
    def make_dialect(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Join the two to a dialect."""
        dialect = CsvDialect(data.pop("delimiter"), data.pop("decimal"))
        if dialect.delimiter == dialect.decimal:
            raise ma.ValidationError("Must not be the delimiter.", "decimal")
        return {**data, "dialect": dialect}


class TableTrainingOptions(TrainingOptions, CsvOptions):
    """How to train on a table."""

    target = fields.String(
        required=True, metadata={"description": "The column to predict; the others are features."}
    )


class TrainingRequest(RowsSchema, TrainingOptions):
    """Rows to learn from, and how."""

    tabular = TableTrainingOptions

    X = _Converted(
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


class VersionRefSchema(StrictSchema):
    """Which version of which model."""

    name = fields.String(required=True, metadata={"example": "default"})
    version = fields.Integer(required=True, metadata={"example": 1})


class WarningSchema(StrictSchema):
    """What was left out of the data, or converted."""

    column = fields.String(required=True, metadata={"example": "__index_level_0__"})
    message = fields.String(
        required=True,
        metadata={"example": "is the index of a pandas data frame; it was left out"},
    )


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


class PredictionOptions(StrictSchema):
    """What to say beside the predictions."""

    intervals = JSONBoolean(
        load_default=False,
        metadata={
            "description": "Add confidence and prediction intervals; for a model fitted by "
            "ordinary least squares."
        },
    )
    level = JSONFloat(
        bounds=validate.Range(0, 1, min_inclusive=False, max_inclusive=False),
        load_default=0.95,
        metadata={"description": "Level of the intervals."},
    )


BOUNDS = {"type": "object", "properties": {"lower": {}, "upper": {}}}
INTERVALS = {
    "type": "object",
    "properties": {"level": {"type": "number"}, "confidence": BOUNDS, "prediction": BOUNDS},
    "description": "Where the mean of y lies (confidence), and where a single y (prediction).",
}


class PredictionRequest(PredictionOptions):
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

    prediction = fields.Raw(
        required=True,
        metadata={
            "type": ["number", "string"],
            "description": "A number, or the label of a class.",
            "example": 4.9608,
        },
    )
    model = fields.Nested(VersionRefSchema, required=True)
    probabilities = fields.Raw(
        metadata={
            "type": "object",
            "description": "Of a classification: the probability of each class.",
        }
    )
    intervals = fields.Raw(metadata=INTERVALS)
    extrapolated = fields.List(
        fields.String(),
        metadata={
            "description": "Features outside the range that they had in training; absent where "
            "there are none."
        },
    )


class BatchOptions(PredictionOptions):
    """What to say beside the predictions, and how to write them."""

    for_spreadsheet = JSONBoolean(
        load_default=False,
        metadata={
            "description": "In CSV, put an apostrophe before labels that a spreadsheet would run "
            "as a formula, such as `=1+1`."
        },
    )


class TableBatchOptions(BatchOptions, CsvOptions):
    """What to say beside the predictions for a table."""


class BatchRequest(RowsSchema, BatchOptions):
    """Rows to predict for."""

    tabular = TableBatchOptions

    instances = _Converted(
        _read_instances,
        required=True,
        metadata={
            "oneOf": [ROWS, {"type": "array", "items": RECORD, "minItems": 1}],
            "description": "The rows: arrays in training order, or objects by feature name.",
        },
    )

    @staticmethod
    def read_table(
        stream: BinaryIO, format_: Format, limits: Limits, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the options with a function that reads the features, once they are known."""
        dialect = options.pop("dialect")

        def read(names: Sequence[str]) -> datasets.Features:
            try:
                return tables.read_features(
                    stream, format=format_, names=names, limits=limits, dialect=dialect
                )
            except InvalidInput as error:
                raise InvalidInput(error.faults, source=format_.name) from None

        return {**options, "instances": read}


class BatchResponse(StrictSchema):
    """A prediction per row, and which version made them."""

    predictions = fields.Raw(
        required=True,
        metadata={"type": "array", "items": {"type": ["number", "string"]}, "minItems": 1},
    )
    model = fields.Nested(VersionRefSchema, required=True)
    probabilities = fields.Raw(
        metadata={
            "type": "object",
            "description": "Of a classification: an array per class, a probability per row.",
        }
    )
    intervals = fields.Raw(metadata=INTERVALS)
    extrapolated = fields.Raw(
        metadata={
            "type": "object",
            "description": "Features outside the range that they had in training, by the number "
            "of the row; absent where there are none, or more than 1,000 in all.",
        }
    )
    extrapolated_counts = fields.Raw(
        metadata={
            "type": "object",
            "additionalProperties": {"type": "integer"},
            "description": "In place of `extrapolated` where that would name more than 1,000: "
            "how many rows are outside the range, by feature.",
            "example": {"x2": 4711},
        }
    )
    warnings = fields.List(
        fields.Nested(WarningSchema),
        metadata={"description": "Columns that were left out; absent where there are none."},
    )


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


class EstimatorSchema(StrictSchema):
    """An estimator of the catalogue."""

    name = fields.String(required=True, metadata={"example": "ridge"})
    task = fields.String(required=True, validate=validate.OneOf(["regression", "classification"]))
    summary = fields.String(required=True)
    parameters = fields.Dict(
        required=True, metadata={"description": "A JSON Schema for each parameter."}
    )
