"""The JSON of uploads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import marshmallow as ma
import orjson
from marshmallow import fields, validate

from webapp.ml.core.formats import FORMATS
from webapp.ml.registry.schemas import SIGNATURE
from webapp.ml.schemas import (
    VALUE,
    Activate,
    CsvOptions,
    FeatureNames,
    FilePart,
    TablePart,
    about,
    check_gate,
    extra_field,
    metric_field,
)
from webapp.web.fields import JSONObject

MOST_SAMPLED = 10_000  # rows
ROW = {"type": "array", "items": VALUE}
RECORD = {"type": "object", "additionalProperties": VALUE}
MOST_METRICS_BYTES = 2**16  # as JSON: every listing reads them


def _check_size(metrics: Mapping[str, Any]) -> None:
    size = len(orjson.dumps(metrics))
    if size > MOST_METRICS_BYTES:
        raise ma.ValidationError(f"Takes {size} bytes, at most {MOST_METRICS_BYTES} are allowed.")


def _check_flat(rows: Sequence[Any]) -> None:
    for number, row in enumerate(rows):
        cells = row.values() if isinstance(row, dict) else row
        nested = isinstance(row, dict | list) and any(isinstance(c, dict | list) for c in cells)
        if nested:
            raise ma.ValidationError(f"Row {number} holds arrays or objects.")


def _check_metrics(metrics: Mapping[str, Any]) -> None:
    _check_size(metrics)
    if "comparison" in metrics:
        raise ma.ValidationError("Has a comparison, which is the service's: leave it out.")


class UploadRequest(CsvOptions):
    """A model that was fitted elsewhere."""

    artifact = FilePart(
        required=True,
        metadata=about("The file that `skops.io.dump` wrote.", type="string", format="binary"),
    )
    format = fields.String(
        load_default=None,
        attribute="format_name",
        validate=validate.OneOf([*FORMATS]),
        metadata=about("The format of the file; found out where not given."),
    )
    feature_names = FeatureNames("Names for columns whose names the model has not learnt.")
    signature = JSONObject(
        keys=fields.String(),
        load_default=None,
        metadata=about(
            "What a row is, where the model's own parts do not say it.", example=SIGNATURE
        ),
    )
    sample = fields.List(
        fields.Raw(metadata={"anyOf": [ROW, RECORD]}),
        load_default=None,
        validate=[validate.Length(1, MOST_SAMPLED), _check_flat],
        metadata=about("Rows to try it with, arrays or objects.", example=[[1.0, 2.0, 3.0]]),
    )
    expected = fields.List(
        fields.Raw(metadata={"anyOf": [VALUE, ROW]}),
        load_default=None,
        validate=_check_flat,
        metadata=about(
            "The predictions for `sample`: nothing is stored where they differ by more than 1e-9 "
            "of the largest.",
            example=[4.96],
        ),
    )
    metrics = JSONObject(
        keys=fields.String(),
        load_default=dict,
        validate=_check_metrics,
        metadata=about("What is known of its quality.", example={"r2_score": 0.9}),
    )
    activate = Activate(
        load_default=False,
        metadata=about(
            "Whether it becomes the active version; with `if_better`, when it is better than the "
            "active one by `metric`, on the rows of `table`."
        ),
    )
    metric = metric_field()
    table = TablePart(
        metadata=about(
            "For `if_better`: rows whose target is known, in CSV, Parquet or Arrow.",
            type="string",
            format="binary",
        ),
    )
    target = fields.String(
        load_default=None, metadata=about("The column of `table` that is to be predicted.")
    )
    extra = extra_field()

    @ma.post_load
    def join_checks(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Join what the format takes beside the file."""
        names = ("feature_names", "signature", "sample", "expected")
        checks = {name: data.pop(name) for name in names}
        sample, expected = checks["sample"], checks["expected"]
        if sample is not None and expected is None:
            raise ma.ValidationError("Goes with the predictions that are expected.", "sample")
        if sample is None and expected is not None:
            raise ma.ValidationError("Goes with the rows of a sample.", "expected")
        return {**data, "checks": checks}

    @ma.post_load
    def make_dialect(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Let the table know how it is written."""
        data = super().make_dialect(data)
        dialect, table = data.pop("dialect"), data.get("table")
        return {**data, "table": table and replace(table, dialect=dialect)}

    @ma.validates_schema
    def check_comparison(self, data: dict[str, Any], **_: Any) -> None:
        """Raise ValidationError for a comparison without its parts, or the reverse."""
        check_gate(data, "metric", "table", "target")
