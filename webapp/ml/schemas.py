"""What the shapes of the registry, of training and of inference share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import marshmallow as ma
from marshmallow import fields, validate
from werkzeug.datastructures import FileStorage

from webapp.errors import InvalidInput
from webapp.ml.core import datasets
from webapp.ml.core.metrics import METRICS
from webapp.ml.core.tables.shapes import DELIMITERS, CsvDialect, Source
from webapp.web.fields import JSONBoolean, StrictSchema

T = TypeVar("T")


def about(text: str, **more: Any) -> dict[str, Any]:
    """Return the metadata of a field: its description, and further keywords of JSON Schema."""
    return {"description": text, **more}


VALUE = {"type": ["number", "string", "boolean", "null"]}
NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1}
LABEL = {"type": "string", "minLength": 1, "maxLength": datasets.LONGEST_LABEL}
LABELS = {"type": "array", "items": LABEL, "minItems": 1}
ROWS = {"type": "array", "items": NUMBERS, "minItems": 1}
ROW = {"type": "array", "items": VALUE, "minItems": 1}
RECORD = {"type": "object", "additionalProperties": VALUE, "minProperties": 1}
RECORDS = {
    "type": "array",
    "items": {"type": "object", "additionalProperties": VALUE},
    "minItems": 1,
}
ROWS_TO_PREDICT = about(
    "The rows: arrays in training order, or objects by feature name.",
    oneOf=[
        {"type": "array", "items": ROW, "minItems": 1},
        {"type": "array", "items": RECORD, "minItems": 1},
    ],
)
NULLABLE: dict[str, Any] = {"required": True, "allow_none": True}


def extra_field() -> fields.Field[Any]:
    """Return the field that says what to do with columns that a model does not take."""
    return fields.String(
        load_default="refuse",
        validate=validate.OneOf(["refuse", "ignore"]),
        metadata=about("What to do with columns that the model does not take."),
    )


IF_BETTER = "if_better"


class Activate(JSONBoolean):
    """Whether a new version becomes the active one: true, false or "if_better"."""

    def __init__(self, *, metadata: dict[str, Any], **kwargs: Any) -> None:
        allowed = {"type": ["boolean", "string"], "enum": [True, False, IF_BETTER]}
        super().__init__(metadata=metadata | allowed, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return value if value == IF_BETTER else super()._deserialize(value, *args, **kwargs)


def metric_field() -> fields.Field[Any]:
    """Return the field that says what a new version must be better by."""
    return fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.OneOf([name for names in METRICS.values() for name in names]),
        metadata=about("What `activate=if_better` compares."),
    )


def check_gate(data: dict[str, Any], *names: str) -> None:
    """Raise ValidationError unless the fields of a comparison go with one, and without not."""
    compares = data["activate"] == IF_BETTER
    message = "Is what if_better needs." if compares else "Is for activate=if_better alone."
    if faults := {name: [message] for name in names if (data.get(name) is not None) != compares}:
        raise ma.ValidationError(faults)


class FeatureNames(fields.List[str]):
    """Names for the columns of a matrix, which the core checks; null where none are given."""

    def __init__(self, description: str) -> None:
        name = fields.String(metadata={"minLength": 1, "maxLength": datasets.LONGEST_FEATURE_NAME})
        super().__init__(name, load_default=None, metadata=about(description, uniqueItems=True))


class FilePart(fields.Field[Any]):
    """A file part of a form: a FileStorage or, of a ``TablePart``, a Source."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(value, FileStorage | Source):
            raise ma.ValidationError("Must be sent as a file.")
        return value


class TablePart(FilePart):
    """A file part that is a table: CSV, Parquet or Arrow."""


class WarningSchema(StrictSchema):
    """What was left out of the data, or converted."""

    column = fields.String(required=True, metadata={"example": "__index_level_0__"})
    message = fields.String(
        required=True, metadata={"example": "is the index of a pandas data frame; it was left out"}
    )


class CsvFields(StrictSchema):
    """How CSV is written; other formats take no such options."""

    delimiter = fields.String(
        load_default=CsvDialect.delimiter,
        validate=validate.OneOf(DELIMITERS),
        metadata=about("What separates the columns of CSV: a comma, `;`, a tab or `|`."),
    )
    decimal = fields.String(
        load_default=CsvDialect.decimal,
        validate=validate.OneOf((".", ",")),
        metadata=about("The decimal point of CSV: `.`, or `,` beside another delimiter."),
    )

    @ma.validates_schema
    def check_dialect(self, data: dict[str, Any], **_: Any) -> None:
        """Raise ValidationError where the two are the same."""
        if data["delimiter"] == data["decimal"]:
            raise ma.ValidationError("Must not be the delimiter.", "decimal")


class CsvOptions(CsvFields):
    """How a CSV table is written, as one option: its ``dialect``."""

    @ma.post_load
    def make_dialect(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Join the two to a dialect."""
        data["dialect"] = take_dialect(data)
        return data


def take_dialect(data: dict[str, Any]) -> CsvDialect:
    """Take the fields of ``CsvFields`` out of what was loaded, as a dialect."""
    return CsvDialect(data.pop("delimiter"), data.pop("decimal"))


@dataclass(frozen=True)
class Table:
    """A table in the body of a request, with its checked options, before it is read."""

    source: Source
    options: dict[str, Any]

    def read(self, reader: Callable[..., T], **arguments: Any) -> T:
        """Return what a reader of ``webapp.ml.core.tables`` makes of it.

        Raises InvalidInput, whose source is the format.
        """
        try:
            return reader(self.source, **arguments)
        except InvalidInput as error:
            name = error.source or self.source.format.name
            raise InvalidInput(error.faults, source=name) from None


class RowsSchema(StrictSchema):
    """A body of rows: a JSON object with the rows in one of ``rows_fields``, or a table.

    ``table_options`` is the schema of the options that go with a table.
    """

    rows_fields: ClassVar[tuple[str, ...]]
    table_options: ClassVar[type[StrictSchema]]

    def load(self, data: Any, **kwargs: Any) -> Any:
        """Return the checked values of a JSON object or a table."""
        return self.load_table(data) if isinstance(data, Table) else super().load(data, **kwargs)

    def load_table(self, table: Table) -> dict[str, Any]:
        """Return what a table and its options give, as ``load`` does for a JSON object."""
        raise NotImplementedError


class TargetedRows(RowsSchema):
    """Rows with a target: `X` and `y`, or `data` with the target among the columns."""

    rows_fields = ("X", "data")
    shown_fields = ("X", "y")
    needs_target: ClassVar[bool] = True

    y = fields.Raw(
        metadata=about(
            "What to predict, one per row of X: numbers for a regression, strings or whole "
            "numbers for a classification. Rows with null are left out.",
            anyOf=[NUMBERS, LABELS],
        ),
    )
    data = fields.Raw(
        metadata=about("Instead of X and y: objects with values by name of the column.", **RECORDS)
    )
    target = fields.String(
        load_default=None,
        allow_none=True,
        metadata=about("The column of `data` to predict; the others are features."),
    )

    @ma.validates_schema
    def check_rows(self, data: dict[str, Any], **_: Any) -> None:
        """Raise ValidationError unless there are X and y, or data and target."""
        faults = {}
        if "data" in data and ("X" in data or "y" in data):
            faults["data"] = ["Must not be given beside X and y."]
        elif "data" in data and data["target"] is None and self.needs_target:
            faults["target"] = ["Missing data for required field."]
        elif "data" not in data:
            missing = [name for name in ("X", "y") if name not in data]
            faults = {name: ["Missing data for required field."] for name in missing}
            if data["target"] is not None:
                faults["target"] = ["Is for data alone."]
        if faults:
            raise ma.ValidationError(faults)
