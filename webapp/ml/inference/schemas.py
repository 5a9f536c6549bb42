"""The JSON of predictions: rows and options in, predictions out."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from webapp.ml.core import features
from webapp.ml.core.datasets import Features
from webapp.ml.core.signature import Signature
from webapp.ml.schemas import (
    RECORD,
    ROW,
    ROWS_TO_PREDICT,
    CsvOptions,
    RowsSchema,
    Table,
    WarningSchema,
    about,
    extra_field,
)
from webapp.web.fields import JSONBoolean, JSONFloat, StrictSchema

LABEL = {"type": ["number", "string", "boolean"]}
PREDICTION = {"anyOf": [LABEL, {"type": "array", "items": LABEL}]}
SCORE = "Of an outlier detector: what its decision function says, below 0 for outliers."
BOUNDS = {"type": "object", "properties": {"lower": {}, "upper": {}}}
INTERVALS = about(
    "Where the mean of y lies (confidence), and where a single y lies (prediction).",
    type="object",
    properties={"level": {"type": "number"}, "confidence": BOUNDS, "prediction": BOUNDS},
)
BY_CLASS = "A classification has one for each class, by its label; of two, `log_odds` and `score` "
EXPLAINED = {
    "of": about(
        "What base and contributions sum up to: the prediction or its logarithm, the probability "
        "of a class, its log-odds (of more than two classes: what the softmax makes "
        "probabilities of), or the score that a class is chosen by.",
        enum=["prediction", "log_prediction", "probability", "log_odds", "score"],
    ),
    "against": about("What contributions are measured against.", enum=["training mean", "zero"]),
}
EXPLANATION = about(
    f"What each feature added. {BY_CLASS}are those of the second.",
    type="object",
    properties={
        **EXPLAINED,
        "base": about("The number without any feature.", type=["number", "object"]),
        "contributions": about("By feature.", type="object"),
        "sum": about("Base and contributions together.", type=["number", "object"]),
    },
)
EXPLANATIONS = about(
    f"What each feature added. {BY_CLASS}are those of the second.",
    type="object",
    properties={
        **EXPLAINED,
        "features": {"type": "array", "items": {"type": "string"}},
        "base": about("The number without any feature.", type=["number", "object"]),
        "contributions": about(
            "A row of values in the order of `features` for each row.", type=["array", "object"]
        ),
    },
)


class PredictionOptions(StrictSchema):
    """What to answer beside the predictions."""

    intervals = JSONBoolean(
        load_default=False,
        metadata=about(
            "Add confidence and prediction intervals; for a model fitted by ordinary least "
            "squares."
        ),
    )
    level = JSONFloat(
        bounds=validate.Range(0, 1, min_inclusive=False, max_inclusive=False),
        load_default=0.95,
        metadata=about("Level of the intervals."),
    )
    explain = JSONBoolean(
        load_default=False,
        metadata=about("Add what each feature added to the prediction; in JSON only."),
    )


class PredictionRequest(PredictionOptions):
    """One row to predict for."""

    features = fields.Raw(
        required=True,
        metadata=about(
            "The row: an array in training order, or an object by feature name.",
            oneOf=[ROW, RECORD],
        ),
    )


class FurtherColumns(StrictSchema):
    """What to do with columns that the model does not take."""

    extra = extra_field()
    passthrough = fields.List(
        fields.String(),
        load_default=list,
        metadata=about(
            "Columns to echo beside the predictions.", default=[], example=["patient_id"]
        ),
    )

    @ma.post_load
    def join_options(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Join the two to what the readers of rows take."""
        names = tuple(data.pop("passthrough"))
        if "prediction" in names or len(set(names)) < len(names):
            message = "Must be different names, none of them prediction."
            raise ma.ValidationError(message, "passthrough")
        batch = features.BatchOptions(data.pop("extra") == "ignore", names)
        return {**data, "batch": batch}


class PredictionTableOptions(FurtherColumns, CsvOptions):
    """How to read a table of rows to predict for."""


class BatchOptions(PredictionOptions, FurtherColumns):
    """What to answer beside the predictions, and how to write them."""

    for_spreadsheet = JSONBoolean(
        load_default=False,
        metadata=about(
            "In CSV, put an apostrophe before labels that a spreadsheet would run as a formula, "
            "such as `=1+1`."
        ),
    )


class TableBatchOptions(BatchOptions, CsvOptions):
    """What to answer beside the predictions for a table."""


class TableRows:
    """The rows of a table, which are read for the columns of a signature: once, unless kept."""

    def __init__(self, table: Table, options: features.BatchOptions) -> None:
        self._table = table
        self._options = options
        self._body: bytes | None = None

    def keep(self) -> bytes:
        """Keep the table in memory, to be read more than once; return its bytes."""
        self._body = self._table.source.file.read()
        return self._body

    def __call__(self, signature: Signature) -> Features:
        """Return the rows; raises InvalidInput, by column and row."""
        table = self._table
        if self._body is not None:
            table = replace(table, source=replace(table.source, file=io.BytesIO(self._body)))
        return table.read(features.read_features, signature=signature, options=self._options)


class BatchRequest(RowsSchema, BatchOptions):
    """Rows to predict for."""

    rows_fields = ("instances",)
    table_options = TableBatchOptions

    instances = fields.Raw(required=True, attribute="rows", metadata=ROWS_TO_PREDICT)

    def load_table(self, table: Table) -> dict[str, Any]:
        """Return the options of a table and its rows: the model decides which columns to read."""
        options = dict(table.options)
        return {"rows": TableRows(table, options.pop("batch")), **options}


class VersionRefSchema(StrictSchema):
    """Which version of which model."""

    name = fields.String(required=True, metadata={"example": "default"})
    version = fields.Integer(required=True, metadata={"example": 1})


class PredictionResponse(StrictSchema):
    """A prediction, and which version made it."""

    prediction = fields.Raw(
        required=True,
        metadata=about(
            "A number, the label of a class, or a list where there are several outputs.",
            example=4.9608,
            **PREDICTION,
        ),
    )
    model = fields.Nested(VersionRefSchema, required=True)
    probabilities = fields.Dict(metadata=about("Of a classification: by class."))
    score = fields.Float(metadata=about(SCORE))
    intervals = fields.Raw(metadata=INTERVALS)
    explanation = fields.Raw(metadata=EXPLANATION)
    extrapolated = fields.List(
        fields.String(),
        metadata=about("Features outside their range in training; absent without any."),
    )
    missing = fields.List(
        fields.String(), metadata=about("Features without a value; absent without any.")
    )
    unseen = fields.Dict(
        metadata=about(
            "Values that training did not have, by feature; absent without any.",
            example={"island": "Mars"},
        )
    )


class BatchResponse(StrictSchema):
    """A prediction per row, and which version made them."""

    predictions = fields.List(fields.Raw(metadata=PREDICTION), required=True)
    model = fields.Nested(VersionRefSchema, required=True)
    probabilities = fields.Dict(
        metadata=about("Of a classification: an array per class, with a value per row.")
    )
    score = fields.List(fields.Float(), metadata=about(SCORE))
    intervals = fields.Raw(metadata=INTERVALS)
    explanations = fields.Raw(metadata=EXPLANATIONS)
    extrapolated = fields.Dict(
        metadata=about(
            "Features outside their range in training, by number of the row; absent without any, "
            "or with more than 1,000 in all."
        )
    )
    extrapolated_counts = fields.Dict(
        values=fields.Integer(),
        metadata=about(
            "Instead of `extrapolated` where it would name more than 1,000: the number of rows, "
            "by feature.",
            example={"x2": 4711},
        ),
    )
    missing = fields.Dict(
        metadata=about("Features without a value, by number of the row; else as `extrapolated`.")
    )
    missing_counts = fields.Dict(values=fields.Integer(), metadata=about("Instead of `missing`."))
    unseen = fields.Dict(
        metadata=about(
            "Values that training did not have, by number of the row and feature; else as "
            "`extrapolated`.",
            example={"3": {"island": "Mars"}},
        )
    )
    unseen_counts = fields.Dict(values=fields.Integer(), metadata=about("Instead of `unseen`."))
    passthrough = fields.Dict(
        metadata=about("The columns that were asked for, by name: a value per row.")
    )
    warnings = fields.List(
        fields.Nested(WarningSchema),
        metadata=about("Columns that were left out; absent without any."),
    )
