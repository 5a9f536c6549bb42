"""The JSON of jobs."""

from __future__ import annotations

import re
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from webapp.jobs.models import STATUSES
from webapp.ml.schemas import about
from webapp.web.fields import StrictSchema
from webapp.web.paging import PageQuery

LONGEST_WAIT = 60  # seconds


class WaitHeader(ma.Schema):
    """How long the client would wait (RFC 7240)."""

    prefer = fields.String(
        data_key="Prefer",
        load_default="",
        metadata=about(f"`wait=10` to wait so many seconds, at most {LONGEST_WAIT}, for the end."),
    )


def prefers_async(header: str) -> bool:
    """Return whether a client would rather not wait."""
    return any(part.strip().lower() == "respond-async" for part in re.split("[,;]", header))


def find_wait(header: str) -> int:
    """Return how many seconds a client would wait; 0 where it does not say so."""
    found = re.search(r"(?:^|[,;])\s*wait\s*=\s*([0-9]{1,9})\s*(?:$|[,;])", header, re.IGNORECASE)
    return min(int(found[1]), LONGEST_WAIT) if found else 0


class JobQuery(PageQuery):
    """Which jobs."""

    status = fields.String(
        validate=validate.OneOf(STATUSES), metadata=about("Only jobs with this status.")
    )


class ProgressSchema(StrictSchema):
    """How far a job is in what it does now: each part of it counts from 0."""

    done = fields.Integer(required=True)
    total = fields.Integer(required=True, allow_none=True, metadata=about("null: not known."))
    unit = fields.String(
        required=True,
        metadata=about(
            "What is counted: `trees` of a forest, `iterations` of gradient_boosting, `folds` of "
            "a cross-validation, `candidates` of auto.",
            example="trees",
        ),
    )


class ResultSchema(StrictSchema):
    """What has become of a job that succeeded."""

    version = fields.Integer(
        required=True, metadata=about("The version that was made, or evaluated.", example=3)
    )
    url = fields.String(
        required=True, metadata=about("URL of that version.", format="uri-reference")
    )
    metrics = fields.Dict(keys=fields.String(), required=True)
    candidates = fields.List(
        fields.Dict(keys=fields.String()),
        metadata=about("Of a search: the first of its ranking, which the version has whole."),
    )


class JobSchema(StrictSchema):
    """Work that was asked for."""

    id = fields.Integer(required=True, metadata={"format": "int64", "example": 1})
    kind = fields.String(required=True, metadata={"example": "train"})
    model = fields.String(required=True, metadata={"example": "default"})
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    options = fields.Dict(
        keys=fields.String(), required=True, metadata=about("What was asked for.")
    )
    progress = fields.Nested(
        ProgressSchema,
        required=True,
        allow_none=True,
        metadata=about("Noted twice a second while it runs; null where nothing is counted."),
    )
    created_at = fields.AwareDateTime(required=True, format="iso")
    started_at = fields.AwareDateTime(required=True, allow_none=True, format="iso")
    finished_at = fields.AwareDateTime(required=True, allow_none=True, format="iso")
    created_by = fields.String(
        required=True,
        allow_none=True,
        metadata=about("Holder of the API key, or `cli:NAME`; null without a key."),
    )
    attempts = fields.Integer(required=True, metadata=about("Processes that began it."))
    claimed_by = fields.String(
        required=True, allow_none=True, metadata=about("Host and process that see to it.")
    )
    waits_for = fields.String(
        metadata=about("What a queued job waits for, besides its turn: a cluster that is away.")
    )
    result = fields.Nested(ResultSchema, metadata=about("Of a job that succeeded."))
    problem = fields.Dict(
        keys=fields.String(),
        metadata=about("Why a job failed: title, status, detail, and errors by field."),
    )

    @ma.post_dump
    def leave_out_nulls(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return a job with the result, the problem, or the reason to wait that it has."""
        absent = [name for name in ("result", "problem", "waits_for") if not data.get(name)]
        return {name: value for name, value in data.items() if name not in absent}
