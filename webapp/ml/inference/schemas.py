"""The JSON of predictions: rows and options in, predictions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marshmallow import fields, validate

from webapp.ml.core.datasets import Features
from webapp.ml.core.tables import reading
from webapp.ml.schemas import NUMBERS, ROWS, CsvOptions, RowsSchema, Table, WarningSchema, about
from webapp.web.fields import JSONBoolean, JSONFloat, StrictSchema

RECORD = {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1}
PREDICTION = {"type": ["number", "string"]}
BOUNDS = {"type": "object", "properties": {"lower": {}, "upper": {}}}
INTERVALS = about(
    "Where the mean of y lies (confidence), and where a single y lies (prediction).",
    type="object",
    properties={"level": {"type": "number"}, "confidence": BOUNDS, "prediction": BOUNDS},
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


class PredictionRequest(PredictionOptions):
    """One row to predict for."""

    features = fields.Raw(
        required=True,
        metadata=about(
            "The row: an array in training order, or an object by feature name.",
            oneOf=[NUMBERS, RECORD],
        ),
    )


class BatchOptions(PredictionOptions):
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


class BatchRequest(RowsSchema, BatchOptions):
    """Rows to predict for."""

    rows_field = "instances"
    table_options = TableBatchOptions

    instances = fields.Raw(
        required=True,
        attribute="rows",
        metadata=about(
            "The rows: arrays in training order, or objects by feature name.",
            oneOf=[ROWS, {"type": "array", "items": RECORD, "minItems": 1}],
        ),
    )

    def load_table(self, table: Table) -> dict[str, Any]:
        """Return the options of a table and its rows: the model decides which columns to read."""

        def read(names: Sequence[str]) -> Features:
            return table.read(reading.read_features, names=names)

        return {**table.options, "rows": read}


class VersionRefSchema(StrictSchema):
    """Which version of which model."""

    name = fields.String(required=True, metadata={"example": "default"})
    version = fields.Integer(required=True, metadata={"example": 1})


class PredictionResponse(StrictSchema):
    """A prediction, and which version made it."""

    prediction = fields.Raw(
        required=True,
        metadata=about("A number, or the label of a class.", example=4.9608, **PREDICTION),
    )
    model = fields.Nested(VersionRefSchema, required=True)
    probabilities = fields.Dict(metadata=about("Of a classification: by class."))
    intervals = fields.Raw(metadata=INTERVALS)
    extrapolated = fields.List(
        fields.String(),
        metadata=about("Features outside their range in training; absent without any."),
    )


class BatchResponse(StrictSchema):
    """A prediction per row, and which version made them."""

    predictions = fields.List(fields.Raw(metadata=PREDICTION), required=True)
    model = fields.Nested(VersionRefSchema, required=True)
    probabilities = fields.Dict(
        metadata=about("Of a classification: an array per class, with a value per row.")
    )
    intervals = fields.Raw(metadata=INTERVALS)
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
    warnings = fields.List(
        fields.Nested(WarningSchema),
        metadata=about("Columns that were left out; absent without any."),
    )
