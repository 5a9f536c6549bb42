"""Shapes of predictions on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from marshmallow import fields, validate

from webapp.errors import InvalidInput
from webapp.ml.core import datasets, tables
from webapp.ml.core.tables import (
    Format,
    Limits,
)
from webapp.ml.schemas import (
    NUMBERS,
    RECORD,
    ROWS,
    Converted,
    CsvOptions,
    RowsSchema,
    WarningSchema,
)
from webapp.web.fields import (
    JSONBoolean,
    JSONFloat,
    StrictSchema,
)


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


class VersionRefSchema(StrictSchema):
    """Which version of which model."""

    name = fields.String(required=True, metadata={"example": "default"})
    version = fields.Integer(required=True, metadata={"example": 1})


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

    features = Converted(
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

    instances = Converted(
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
