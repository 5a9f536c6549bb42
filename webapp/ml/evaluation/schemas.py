"""The JSON of evaluations: rows with their target in, metrics out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import marshmallow as ma
from marshmallow import fields

from webapp.errors import faults_in
from webapp.ml.core import evaluation
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.signature import Signature
from webapp.ml.core.tables.records import read_records
from webapp.ml.schemas import (
    NULLABLE,
    ROWS_TO_PREDICT,
    CsvOptions,
    Table,
    TargetedRows,
    WarningSchema,
    about,
    extra_field,
)
from webapp.web.fields import StrictSchema

TARGET = about("The column that was to be predicted; where not given, that of the training.")


class EvaluationTableOptions(CsvOptions):
    """How to read a table to judge a version on."""

    target = fields.String(load_default=None, metadata=TARGET)
    extra = extra_field()


class EvaluationRequest(TargetedRows):
    """Rows to judge a version on: `X` and `y`, or `data` with the target among its columns."""

    table_options = EvaluationTableOptions
    needs_target = False  # the version knows its name

    X = fields.Raw(metadata=ROWS_TO_PREDICT)
    target = fields.String(load_default=None, allow_none=True, metadata=TARGET)
    extra = extra_field()

    @ma.post_load
    def make_reader(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return what reads the rows: the version decides which columns, and which labels."""
        make_task = _make_task(data)

        def read(signature: Signature, classes: Sequence[Any] | None) -> Dataset:
            task = make_task(signature, classes)
            if "data" not in data:
                return evaluation.take_arrays(data["X"], data["y"], task)
            target = task.find_target()
            with faults_in("data"):
                columns = read_records(data["data"])
            with faults_in("target"):
                columns.check_target(target)
            with faults_in("data"):
                return evaluation.take_rows(columns, task)

        return {"rows": read}

    def load_table(self, table: Table) -> dict[str, Any]:
        """Return what reads the table, as ``make_reader`` does."""
        make_task = _make_task(table.options)

        def read(signature: Signature, classes: Sequence[Any] | None) -> Dataset:
            task = make_task(signature, classes)
            task.find_target()  # what is wrong with it is no fault of the table
            return table.read(evaluation.read_table, task=task)

        return {"rows": read}


def _make_task(options: dict[str, Any]) -> Callable[..., evaluation.Task]:
    """Return what makes a task of a signature and its classes."""
    target, ignore_extra = options["target"], options["extra"] == "ignore"
    return partial(evaluation.Task, target=target, ignore_extra=ignore_extra)


class EvaluationSchema(StrictSchema):
    """How good a version was on some rows."""

    metrics = fields.Dict(
        required=True,
        metadata=about(
            "The metrics that a training gives. The `baseline` always predicts the mean of these "
            "rows, or their most frequent class.",
            example={"mse": 0.0048, "rmse": 0.0696, "r2_score": 0.9996},
        ),
    )
    n_rows = fields.Integer(required=True, metadata=about("Rows that had a target."))
    data_digest = fields.String(
        required=True,
        metadata=about(
            "SHA-256 of names and rows as the version takes them: that of a training on the same "
            "rows."
        ),
    )
    warnings = fields.List(
        fields.Nested(WarningSchema),
        required=True,
        metadata=about("What was left out or converted, or is not known to the version."),
    )
    created_at = fields.AwareDateTime(required=True, format="iso")
    created_by = fields.String(**NULLABLE)
