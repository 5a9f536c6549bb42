"""Shapes that the registry, trainings and predictions share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

import marshmallow as ma
from marshmallow import fields, validate
from werkzeug.datastructures import FileStorage

from webapp.errors import InvalidInput
from webapp.ml.core import datasets
from webapp.ml.core.tables import (
    DECIMALS,
    DEFAULT_DIALECT,
    DELIMITERS,
    CsvDialect,
    Format,
    Limits,
)
from webapp.web.fields import (
    StrictSchema,
)

NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1}

ROWS = {"type": "array", "items": NUMBERS, "minItems": 1}

LABEL = {"type": "string", "minLength": 1, "maxLength": datasets.LONGEST_LABEL}

LABELS = {"type": "array", "items": LABEL, "minItems": 1}

RECORD = {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1}

LARGEST_SEED = 2**32 - 1  # of NumPy's legacy generator


class Converted(fields.Field[Any]):
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


class WarningSchema(StrictSchema):
    """What was left out of the data, or converted."""

    column = fields.String(required=True, metadata={"example": "__index_level_0__"})
    message = fields.String(
        required=True,
        metadata={"example": "is the index of a pandas data frame; it was left out"},
    )
